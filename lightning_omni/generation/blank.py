"""How a hole looks before it is filled: its length, what it already holds, where it cannot end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from lightning_omni.generation.part_draft import ImageDraft, SpeechDraft, TextDraft
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import Vocab

LONGEST_GAP = 4
"""Tokens of a gap of unknown length, at most."""
MAX_TRIES = 64
"""Combinations of gap lengths that are tried for one text, about at most."""


@dataclass(frozen=True, slots=True)
class Blank:
    """A hole before it is filled; places count from its start.

    Attributes:
        length: Positions.
        given: Ids that it already holds, by place.
        inside: Places where no terminator may stand.
        after_space: Those of them whose token begins with a space.
        gaps: Runs `[start, stop)` that are the gaps of a text, in order.
    """

    length: int
    given: dict[int, int] = field(default_factory=dict)
    inside: frozenset[int] = frozenset()
    after_space: frozenset[int] = frozenset()
    gaps: tuple[tuple[int, int], ...] = ()

    @property
    def num_open(self) -> int:
        """Positions to be filled."""
        return self.length - len(self.given)

    @property
    def gap_lengths(self) -> tuple[int, ...]:
        """Tokens of each gap."""
        return tuple(stop - start for start, stop in self.gaps)


def media_blank(draft: ImageDraft | SpeechDraft, vocab: Vocab, end: Sequence[int]) -> Blank:
    """The hole of a picture or of speech: as long as the draft and the ids that end it."""
    ids = [*vocab.to_ids(draft.modality, list(draft.codes)), *end]
    given = {i: token for i, token in enumerate(ids) if i not in draft.open_places}
    return Blank(len(ids), given, draft.open_places)


def text_blanks(
    draft: TextDraft,
    text: TextTokenizer,
    *,
    ending: tuple[str, list[int]],
    room: int,
    growth: float,
) -> list[Blank]:
    """Holes of a text, one for each choice of gap lengths that is worth a try.

    White space before a gap belongs to the gap's first token, as words are tokenized. A gap at the
    end whose length is not stated goes on until it ends by itself.

    Args:
        draft: The text.
        text: Its tokenizer.
        ending: What ends the text, as `Template.ending` says.
        room: Positions that a whole answer usually gets.
        growth: Of a gap at the end, beyond what is usual.
    """
    shown, (after, end_ids) = draft.shown_pieces(), ending
    if not draft.has_open_end:
        shown[-1] += after
    pieces = [text.encode(piece) for piece in shown]
    num_given = sum(map(len, pieces))
    stated = list(draft.lengths)
    if draft.has_open_end:
        end = max(room - num_given, LONGEST_GAP + 1)
        stated[-1] = int(end * growth)
    spaced = draft.gaps_after_space()
    return [
        _text_blank(pieces, lengths, spaced, draft.has_open_end, end_ids)
        for lengths in choices_of_lengths(stated)
    ]


def choices_of_lengths(stated: Sequence[int | None]) -> list[tuple[int, ...]]:
    """Lengths of all gaps to be tried together; None is a gap of unknown length.

    These are all combinations up to the longest length of which there are no more than
    `MAX_TRIES`, and beyond it the same length for all.
    """
    unknown = sum(n is None for n in stated)
    longest = max(n for n in range(1, LONGEST_GAP + 1) if n == 1 or n**unknown <= MAX_TRIES)
    every: list[Iterable[int]] = [range(1, longest + 1) if n is None else (n,) for n in stated]
    common = range(longest + 1, LONGEST_GAP + 1) if unknown else ()
    return [
        *product(*every),
        *(tuple(length if n is None else n for n in stated) for length in common),
    ]


def _text_blank(
    pieces: list[list[int]],
    lengths: tuple[int, ...],
    spaced: list[bool],
    has_open_end: bool,
    end_ids: list[int],
) -> Blank:
    given = dict(enumerate(pieces[0]))
    stop = len(pieces[0])
    gaps = []
    for length, piece in zip(lengths, pieces[1:], strict=True):
        gaps.append((stop, stop + length))
        stop += length
        given.update(enumerate(piece, start=stop))
        stop += len(piece)
    inside = {i for start, end in gaps for i in range(start, end)}
    if has_open_end:
        inside -= set(range(gaps[-1][0] + 1, stop))
    else:
        given.update(enumerate(end_ids, start=stop))
        stop += len(end_ids)
    after_space = {start for (start, _), is_spaced in zip(gaps, spaced, strict=True) if is_spaced}
    return Blank(stop, given, frozenset(inside), frozenset(after_space), tuple(gaps))
