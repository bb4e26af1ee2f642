"""The response of one answer part before sampling: its length, its fixed ids and its blanks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_omni.generation.text_blanks import (
    LONGEST_TRIED,
    TextWithBlanks,
    candidate_blank_lengths,
)
from lightning_omni.tokenizers.text import TextTokenizer


@dataclass(frozen=True, slots=True)
class ResponseSpan:
    """The response of one answer part before sampling; positions count from its start.

    Attributes:
        length: number of positions.
        fixed: ids that stay as they are, by position.
        no_end: positions at which no terminator may stand.
        after_space: those of them whose token begins with a space.
        blanks: `[start, stop)` of each blank of a text, in order.
    """

    length: int
    fixed: dict[int, int] = field(default_factory=dict)
    no_end: frozenset[int] = frozenset()
    after_space: frozenset[int] = frozenset()
    blanks: tuple[tuple[int, int], ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the part is generated whole, nothing of it being given."""
        return not (self.fixed or self.blanks)

    @property
    def num_masked(self) -> int:
        """Number of masked positions."""
        return self.length - len(self.fixed)

    @property
    def blank_lengths(self) -> tuple[int, ...]:
        """Number of tokens of each blank."""
        return tuple(stop - start for start, stop in self.blanks)


def response_span_of_media(ids: Sequence[int], masked: frozenset[int]) -> ResponseSpan:
    """Return the response of codes and their terminator, of which some positions are masked."""
    fixed = {i: token for i, token in enumerate(ids) if i not in masked}
    return ResponseSpan(len(ids), fixed, masked)


def response_spans_of_text(
    text: TextWithBlanks,
    tokenizer: TextTokenizer,
    *,
    ending: tuple[str, list[int]],
    usual_length: int,
    factor: float,
) -> list[ResponseSpan]:
    """Return one response of a text with blanks for each combination of blank lengths to try.

    White space before a blank belongs to the blank's first token, as words are tokenized. A blank
    at the end whose length is not stated runs until the model ends it.

    Args:
        text: the text with blanks.
        tokenizer: the text tokenizer.
        ending: terminator of the text, see `Template.ending`.
        usual_length: positions that a whole answer usually has.
        factor: factor on the usual length of a blank at the end.
    """
    stripped, (after, end_ids) = text.stripped_pieces(), ending
    if not text.has_open_end:
        stripped[-1] += after
    pieces = [tokenizer.encode(piece) for piece in stripped]
    stated = list(text.lengths)
    if text.has_open_end:
        rest = max(usual_length - sum(map(len, pieces)), LONGEST_TRIED + 1)
        stated[-1] = int(rest * factor)
    spaced = text.blanks_after_space()
    return [
        _response_span_of_pieces(pieces, lengths, spaced, text.has_open_end, end_ids)
        for lengths in candidate_blank_lengths(stated)
    ]


def _response_span_of_pieces(
    pieces: list[list[int]],
    lengths: tuple[int, ...],
    spaced: list[bool],
    has_open_end: bool,
    end_ids: list[int],
) -> ResponseSpan:
    fixed = dict(enumerate(pieces[0]))
    stop = len(pieces[0])
    blanks = []
    for length, piece in zip(lengths, pieces[1:], strict=True):
        blanks.append((stop, stop + length))
        stop += length
        fixed.update(enumerate(piece, start=stop))
        stop += len(piece)
    no_end = {i for start, end in blanks for i in range(start, end)}
    if has_open_end:
        no_end -= set(range(blanks[-1][0] + 1, stop))
    else:
        fixed.update(enumerate(end_ids, start=stop))
        stop += len(end_ids)
    after_space = {start for (start, _), is_spaced in zip(blanks, spaced, strict=True) if is_spaced}
    return ResponseSpan(stop, fixed, frozenset(no_end), frozenset(after_space), tuple(blanks))
