"""The table of modalities: how the codes of each are laid out, bracketed and ended.

A new modality is one more entry of `MODALITIES`, a span in a recipe's `vocab`, and a
`FileTokenizer`; everything else reads this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_omni.errors import OmniError

SizeName = Literal["image_columns", "codebooks"]
"""Sizes of a data set's manifest that lay codes out on a grid."""
Sizes = Mapping[str, int]
"""`{"image_columns": codes of an image row, "codebooks": codes of a speech frame}`."""


@dataclass(frozen=True, slots=True)
class Modality:
    """One modality.

    Attributes:
        name: Name of its span in the vocabulary.
        suffix: Suffix of the files answers are written to.
        begin: Special token before the codes of a part; None where parts have no brackets.
        end: Special token after them.
        terminator: Special token that ends an answer, predicted as its last token; None for an
            answer of fixed length, whose `end` is given.
        grid: Width of the grid its codes lie on, row after row, or the size that is the width; None
            for no grid.
        is_framed: Whether a row of the grid is a frame: one code of every codebook, each codebook a
            range of its own in the modality's span.
        length: Number of codes of an answer of fixed length; None for a square grid.
    """

    name: str
    suffix: str
    begin: str | None = None
    end: str | None = None
    terminator: str | None = None
    grid: SizeName | int | None = None
    is_framed: bool = False
    length: int | None = None

    @property
    def is_text(self) -> bool:
        """Whether a part holds text and not codes of a tokenizer."""
        return self.name == TEXT

    @property
    def is_file(self) -> bool:
        """Whether its media are files for a `FileTokenizer`, and not text, pictures or sound."""
        return self.name not in (TEXT, IMAGE, SPEECH)

    @property
    def has_fixed_length(self) -> bool:
        """Whether all answers of this modality have one length, so that none carries an end."""
        return self.terminator is None

    def columns(self, sizes: Sizes) -> int | None:
        """Return the width of the grid its codes lie on; None for no grid."""
        return sizes[self.grid] if isinstance(self.grid, str) else self.grid

    def frame_size(self, sizes: Sizes) -> int:
        """Return the number of tokens of a frame, the unit in which answers grow."""
        return (self.columns(sizes) or 1) if self.is_framed else 1

    def fixed_length(self, sizes: Sizes) -> int:
        """Return the number of codes of an answer of fixed length."""
        return (self.columns(sizes) or 1) ** 2 if self.length is None else self.length

    def grid_of(self, num_tokens: int, sizes: Sizes) -> NDArray[np.int64] | None:
        """Return (row, column) of each token, counted from 1, Int[num_tokens 2], to read only.

        None where there is no grid.
        """
        width = self.columns(sizes)
        if width is None:
            return None
        return _grid_cells(width, num_tokens.bit_length())[:num_tokens]


@lru_cache(maxsize=64)
def _grid_cells(width: int, bits: int) -> NDArray[np.int64]:
    """Return the cells of the first 2^bits places of a grid, of which those of fewer are a part."""
    cells = np.stack(np.divmod(np.arange(1 << bits), width), axis=1) + 1
    cells.flags.writeable = False
    return cells


TEXT, IMAGE, SPEECH = "text", "image", "speech"
SAMPLE_RATE = 16_000
"""Sample rate of speech in data folders and of what measures or encodes it, in Hz."""
MODALITIES = (
    Modality(TEXT, suffix=".txt", terminator="<|endoftext|>"),
    Modality(
        SPEECH,
        suffix=".wav",
        begin="<|begin_of_speech|>",
        end="<|end_of_speech|>",
        terminator="<|end_of_speech|>",
        grid="codebooks",
        is_framed=True,
    ),
    Modality(
        IMAGE,
        suffix=".png",
        begin="<|begin_of_image|>",
        end="<|end_of_image|>",
        grid="image_columns",
    ),
)
MODALITIES_BY_NAME = {modality.name: modality for modality in MODALITIES}


def modality_named(name: str) -> Modality:
    """Return the modality of a name.

    Raises:
        OmniError: If there is no such modality; the message lists the existing ones.
    """
    if name not in MODALITIES_BY_NAME:
        raise OmniError(f"unknown modality '{name}'; choose one of {', '.join(MODALITIES_BY_NAME)}")
    return MODALITIES_BY_NAME[name]
