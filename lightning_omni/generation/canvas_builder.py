"""Build the canvas of a batch: responses, prompts packed one after another, allowed tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product

import numpy as np
import torch
from torch import Tensor

from lightning_omni.data.packing import concatenate_features
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.modalities import TEXT, modality_named
from lightning_omni.nn.segments import SegmentLayout
from lightning_omni.samplers.canvas import Canvas
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import ContinuousFeatures, Sample
from lightning_omni.vocab import Vocab

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

    def filled(self, fillings: list[str]) -> str:
        """Return the text with its blanks filled; white space of the user is not doubled."""
        out = self.pieces[0]
        for filling, piece in zip(fillings, self.pieces[1:], strict=True):
            if not out or out[-1].isspace():
                filling = filling.lstrip()
            if not piece or piece[0].isspace():
                filling = filling.rstrip()
            out += filling + piece
        return out


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


def media_span(ids: Sequence[int], masked: frozenset[int]) -> ResponseSpan:
    """Return the response of codes and their terminator, of which some positions are masked."""
    fixed = {i: token for i, token in enumerate(ids) if i not in masked}
    return ResponseSpan(len(ids), fixed, masked)


def text_spans(
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
        _text_span(pieces, lengths, spaced, text.has_open_end, end_ids)
        for lengths in candidate_lengths(stated)
    ]


def candidate_lengths(stated: Sequence[int | None]) -> list[tuple[int, ...]]:
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


def _text_span(
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


class AllowedTokens:
    """Ids that each position of a response may hold, as rows that positions refer to.

    Row 0 is text and its terminators; rows 1 and 2 are for positions of a text at which no answer
    ends: text that is more than white space, and such text after a space. Every other modality has
    one row for each codebook, with its terminators, and then one for each without. So an image is
    always exactly its codes, and a speech code always has its own codebook.
    """

    def __init__(
        self, vocab: Vocab, tokenizer: TextTokenizer, codebooks: int, *, device: torch.device
    ) -> None:
        def ids(start: int, size: int, *extra: int) -> Tensor:
            return torch.tensor([*extra, *range(start, start + size)], device=device).sort().values

        text = vocab.span(TEXT)
        rows = [ids(text.start, text.size, *vocab.ends(TEXT))]
        for after_space in (False, True):
            tokens = tokenizer.visible(after_space=after_space)
            rows.append(text.start + torch.tensor(tokens, device=device))
        self._codes: dict[str, tuple[int, int]] = {}
        for name in vocab.modalities[1:]:
            span, modality = vocab.span(name), modality_named(name)
            frame = modality.frame_size({"codebooks": codebooks})
            size = span.size // frame
            starts = [span.start + q * size for q in range(frame)]
            self._codes[name] = len(rows), frame
            for q, start in enumerate(starts):
                ends = vocab.ends(name) if q == 0 else (vocab.pad_token_id,)
                rows.append(ids(start, size, *ends))
            rows += [ids(start, size) for start in starts]
        self.allowed = tuple(rows)

    def rows_of(self, modality: str, span: ResponseSpan) -> list[int]:
        """Return the row of each position of a response."""
        if modality_named(modality).is_text:
            return [(i in span.no_end) + (i in span.after_space) for i in range(span.length)]
        first, frame = self._codes[modality]
        return [first + i % frame + frame * (i in span.no_end) for i in range(span.length)]


@dataclass(frozen=True, slots=True)
class PackedPrompts:
    """Rendered prompts one after another, with the positions of their responses.

    Attributes:
        ids: token ids, Int[T].
        position_ids: Int[T 3].
        layout: the prompts as segments.
        response_positions: positions of all responses, samples in order, Int[H].
        continuous: features in place of some tokens; None without continuous speech.
    """

    ids: Tensor
    position_ids: Tensor
    layout: SegmentLayout
    response_positions: Tensor
    continuous: ContinuousFeatures | None = None


def pack_prompts(
    template: Template,
    samples: list[Sample],
    spans: list[ResponseSpan],
    *,
    part: int,
    device: torch.device,
    drop: Collection[str] = (),
) -> PackedPrompts:
    """Render every sample with its response as answer part `part`, one prompt after another.

    Args:
        template: the template.
        samples: samples with their requests.
        spans: their responses.
        part: index of the part in the last turn; the parts before it are given.
        device: device of the result.
        drop: modalities of the request to leave out, for guidance.
    """
    rendered = [
        template.render_prompt(sample, part=part, length=span.length, fixed=span.fixed, drop=drop)
        for sample, span in zip(samples, spans, strict=True)
    ]
    sequences = [sequence for sequence, _ in rendered]
    lengths = [len(sequence.ids) for sequence in sequences]
    starts = accumulate(lengths, initial=0)
    positions = [
        np.arange(start + response.start, start + response.stop)
        for start, (_, response) in zip(starts, rendered, strict=False)
    ]
    continuous = concatenate_features(sequences)
    return PackedPrompts(
        torch.from_numpy(np.concatenate([s.ids for s in sequences])).to(device),
        torch.from_numpy(np.concatenate([s.position_ids for s in sequences])).to(device),
        SegmentLayout.from_lengths(lengths, device=device),
        torch.from_numpy(np.concatenate(positions)).to(device),
        None if continuous is None else continuous.to(device),
    )


def build_canvas(
    packed: PackedPrompts,
    spans: list[ResponseSpan],
    modality: str,
    allowed: AllowedTokens,
    *,
    num_steps: list[int],
    timestep_shift: float,
    stop_at_end: bool,
    vocab: Vocab,
) -> Canvas:
    """Build the canvas on which the responses of all samples, of one modality, are unmasked."""
    device = packed.ids.device
    block = torch.full_like(packed.ids, -1)
    block[packed.response_positions] = 0
    row = torch.full_like(packed.ids, -1)
    rows = [r for span in spans for r in allowed.rows_of(modality, span)]
    row[packed.response_positions] = torch.tensor(rows, device=device)
    lengths = torch.tensor(packed.layout.lengths, device=device)
    return Canvas(
        ids=packed.ids,
        sample=torch.arange(len(spans), device=device).repeat_interleave(lengths),
        block=block,
        row=row,
        allowed=allowed.allowed,
        num_steps=torch.tensor(num_steps, device=device)[:, None],
        mask_token_id=vocab.mask_token_id,
        timestep_shift=torch.full((len(spans), 1), timestep_shift, device=device),
        ends=end_ids(vocab) if stop_at_end else (),
        pad_token_id=vocab.pad_token_id,
    )


def end_ids(vocab: Vocab) -> tuple[int, ...]:
    """Return the ids that end an answer of any modality."""
    return tuple(dict.fromkeys(end for name in vocab.modalities for end in vocab.ends(name)))
