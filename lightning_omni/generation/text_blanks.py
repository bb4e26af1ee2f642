"""Texts with blanks `___` to be generated, and the lengths of blanks that are tried."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from lightning_omni.errors import OmniError

BLANK = re.compile(r"_{3,}(?:\{(\d+)\})?")
_NO_LENGTH = re.compile(r"_{3,}\{(?!\d+\})[^\s{}]*\}")
LONGEST_STATED = 64
"""Most tokens of a blank whose length is stated."""
LONGEST_TRIED = 4
"""Most tokens of a blank whose length is not stated."""
MAX_CANDIDATES = 64
"""About the most combinations of blank lengths that are tried for one text."""


@dataclass(frozen=True, slots=True)
class TextWithBlanks:
    """A text with blanks to fill.

    Attributes:
        pieces: text before, between and after the blanks, as the user wrote it.
        lengths: tokens of each blank; None where not stated.
    """

    pieces: tuple[str, ...]
    lengths: tuple[int | None, ...] = ()

    @classmethod
    def parse(cls, text: str) -> TextWithBlanks:
        """Parse a text in which `___` is a blank, and `___{2}` a blank of two tokens.

        Raises:
            OmniError: If the text is empty or a blank's length is no number from 1 to 64.
        """
        if not text.strip():
            raise OmniError("the infill text is empty; write ___ where something is to be filled")
        if wrong := _NO_LENGTH.search(text):
            raise OmniError(
                f"the infill text has the blank '{wrong[0]}', wanted ___ or, with its number of "
                "tokens, ___{2}; put a space before a brace that is text"
            )
        found = BLANK.split(text)
        lengths = tuple(None if n is None else int(n) for n in found[1::2])
        for length in lengths:
            if length is not None and not 1 <= length <= LONGEST_STATED:
                raise OmniError(
                    f"a blank of the infill text has {length} tokens, wanted 1 to {LONGEST_STATED}"
                )
        return cls(tuple(found[::2]), lengths)

    @property
    def has_open_end(self) -> bool:
        """Whether the text ends with a blank whose length is not stated."""
        return bool(self.lengths) and self.lengths[-1] is None and not self.pieces[-1].strip()

    def stripped_pieces(self) -> list[str]:
        """Return the pieces without white space before a blank or at either end."""
        first, *others = (piece.rstrip() for piece in self.pieces)
        return [first.lstrip(), *others]

    def blanks_after_space(self) -> list[bool]:
        """Return whether white space, and something before it, precedes each blank."""
        return [
            piece != piece.rstrip() and (i > 0 or bool(piece.strip()))
            for i, piece in enumerate(self.pieces[:-1])
        ]

    def replace_blanks(self, fillings: list[str]) -> str:
        """Return the text with its blanks filled; white space of the user is not doubled."""
        out = self.pieces[0]
        for filling, piece in zip(fillings, self.pieces[1:], strict=True):
            if not out or out[-1].isspace():
                filling = filling.lstrip()
            if not piece or piece[0].isspace():
                filling = filling.rstrip()
            out += filling + piece
        return out


def candidate_blank_lengths(stated: Sequence[int | None]) -> list[tuple[int, ...]]:
    """Return the combinations of blank lengths to try; None is a blank of unknown length.

    All combinations up to the longest length of which there are at most `MAX_CANDIDATES`, and
    beyond it the same length for all blanks.
    """
    unknown = sum(n is None for n in stated)
    longest = max(n for n in range(1, LONGEST_TRIED + 1) if n == 1 or n**unknown <= MAX_CANDIDATES)
    every: list[Iterable[int]] = [range(1, longest + 1) if n is None else (n,) for n in stated]
    common = range(longest + 1, LONGEST_TRIED + 1) if unknown else ()
    return [
        *product(*every),
        *(tuple(length if n is None else n for n in stated) for length in common),
    ]
