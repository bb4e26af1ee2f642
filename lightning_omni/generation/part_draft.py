"""One answer part of which something is given, in tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.errors import OmniError
from lightning_omni.types import Sample

GAP = re.compile(r"_{3,}(?:\{(\d+)\})?")
_NO_LENGTH = re.compile(r"_{3,}\{(?!\d+\})[^\s{}]*\}")
MAXGAP = 64


@dataclass(frozen=True, slots=True)
class TextDraft:
    """Text with gaps.

    Attributes:
        pieces: What stands before, between and behind the gaps, as the user wrote it.
        lengths: Tokens of each gap; None where that is to be found.
    """

    modality: ClassVar[str] = "text"
    pieces: tuple[str, ...]
    lengths: tuple[int | None, ...] = ()

    @classmethod
    def parse(cls, text: str) -> TextDraft:
        """Read a text in which `___` is a gap and `___{2}` one of two tokens.

        Raises:
            OmniError: If the text is empty or states what is no length of a gap.
        """
        if not text.strip():
            raise OmniError("the draft's text is empty; write ___ where something is to be filled")
        if wrong := _NO_LENGTH.search(text):
            raise OmniError(
                f"the draft's text has the gap '{wrong[0]}', wanted ___ or, with its number of "
                "tokens, ___{2}; put a space before a brace that is text"
            )
        found = GAP.split(text)
        lengths = tuple(None if n is None else int(n) for n in found[1::2])
        for length in lengths:
            if length is not None and not 1 <= length <= MAXGAP:
                raise OmniError(
                    f"a gap of the draft's text has {length} tokens, wanted 1 to {MAXGAP}"
                )
        return cls(tuple(found[::2]), lengths)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is to be filled."""
        return not self.lengths

    @property
    def has_open_end(self) -> bool:
        """Whether the text ends with a gap whose length is not stated."""
        return not self.is_whole and self.lengths[-1] is None and not self.pieces[-1].strip()

    def shown_pieces(self) -> list[str]:
        """The pieces as the model sees them: without white space before a gap or at the ends."""
        first, *others = (piece.rstrip() for piece in self.pieces)
        return [first.lstrip(), *others]

    def gaps_after_space(self) -> list[bool]:
        """Whether white space, and something before it, stands in front of each gap."""
        return [
            piece != piece.rstrip() and (i > 0 or bool(piece.strip()))
            for i, piece in enumerate(self.pieces[:-1])
        ]

    def assemble(self, fillings: list[str]) -> str:
        """The text with its gaps filled; white space that the user wrote is not doubled."""
        out = self.pieces[0]
        for filling, piece in zip(fillings, self.pieces[1:], strict=True):
            if not out or out[-1].isspace():
                filling = filling.lstrip()
            if not piece or piece[0].isspace():
                filling = filling.rstrip()
            out += filling + piece
        return out


@dataclass(frozen=True, slots=True)
class ImageDraft:
    """A picture of which some codes are to be drawn anew.

    Attributes:
        codes: Of the whole picture.
        open_places: Places of those that are drawn anew.
        pixels: The picture at the tokenizer's size; kept where nothing is drawn anew. None takes
            what the codes decode to.
    """

    modality: ClassVar[str] = "image"
    codes: tuple[int, ...]
    open_places: frozenset[int] = frozenset()
    pixels: Image.Image | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is to be drawn."""
        return not self.open_places


@dataclass(frozen=True, slots=True)
class SpeechDraft:
    """Speech of which some codes are to be said anew.

    Attributes:
        codes: Of the whole sound.
        open_places: Places of those that are said anew.
        wave: The samples; kept where nothing is said anew. None takes what the codes decode to.
    """

    modality: ClassVar[str] = "speech"
    codes: tuple[int, ...]
    open_places: frozenset[int] = frozenset()
    wave: NDArray[np.float32] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is to be said."""
        return not self.open_places


PartDraft = TextDraft | ImageDraft | SpeechDraft


def check_part_drafts(sample: Sample, drafts: Mapping[int, PartDraft]) -> None:
    """Check the drafts of an answer, by the number of its part, transcripts not counted.

    Raises:
        OmniError: If there is no such part, it is of another modality, or nothing is left to fill.
    """
    modalities = [p.modality for p in sample.turns[-1].parts if not p.is_transcript]
    if not modalities:
        raise OmniError(f"the last turn of sample '{sample.key}' has no parts; name what to answer")
    for number, draft in drafts.items():
        if not 0 <= number < len(modalities):
            raise OmniError(
                f"there is a draft for part {number} of the answer, which has the parts "
                f"{', '.join(modalities)}, counted from 0"
            )
        if draft.modality != modalities[number]:
            raise OmniError(
                f"part {number} of the answer is {modalities[number]} but its draft is "
                f"{draft.modality}; number the drafts as the parts"
            )
    if drafts and len(drafts) == len(modalities) and all(d.is_whole for d in drafts.values()):
        raise OmniError(
            "the draft leaves nothing to be filled; write ___ into its text, give a mask with its "
            "image or times with its speech"
        )


def by_place(sample: Sample, drafts: Mapping[int, PartDraft]) -> dict[int, PartDraft]:
    """The drafts by the place of their part in the last turn, transcripts counted."""
    places = [i for i, p in enumerate(sample.turns[-1].parts) if not p.is_transcript]
    return {places[number]: draft for number, draft in drafts.items()}
