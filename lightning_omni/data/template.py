"""Render a sample to token ids: chat turns, bracketed media, masked responses with tail pads.

Training and generation share this file. In training the response, one answer part, holds its true
tokens, its terminator and tail pads; in generation it is a span of masks. Brackets and turn ends
around the response are known beforehand, so they are written, never predicted.

An answer of several parts (text, then the speech that reads it) is a chain: a sequence has one
response, the parts before it are context, and later parts are absent, in training as in generation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from lightning_omni.data.sequence_builder import SequenceBuilder
from lightning_omni.errors import OmniError
from lightning_omni.modalities import IMAGE, MODALITIES, SPEECH, modality_named
from lightning_omni.tasks import task_named
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, TokenSequence, Turn
from lightning_omni.vocab import Vocab


@dataclass(frozen=True, slots=True)
class MaskedSpan:
    """Positions `[start, stop)` of a sequence that the model fills, all of one modality."""

    modality: str
    start: int
    stop: int


class Template:
    """Renders samples to token sequences over one vocabulary.

    Args:
        vocab: Joint id space.
        text: Tokenizer of the vocabulary's text span.
        image_columns: Codes per row of an answer's picture, for position ids on the image grid.
        codebooks: Speech codes per frame, for position ids within a frame.
        max_tail_pads: Largest number of tail pads by modality, in tokens (for speech, in frames).
            Training appends 0 to this many pads to a response, drawn uniformly, so that generation
            may offer a response that is too long by as much. Default for a modality: none.
        request_image_columns: Codes per row of a request's picture; None for those of an answer's.
    """

    def __init__(
        self,
        vocab: Vocab,
        text: TextTokenizer,
        *,
        image_columns: int,
        codebooks: int,
        max_tail_pads: dict[str, int],
        request_image_columns: int | None = None,
    ) -> None:
        growing = [m.name for m in MODALITIES if not m.has_fixed_length]
        unknown = sorted(set(max_tail_pads) - set(growing))
        if unknown:
            raise OmniError(
                f"max_tail_pads is given for {', '.join(unknown)}, whose answers have one length; "
                f"it takes {' and '.join(growing)}"
            )
        if text.size != vocab.span("text").size:
            raise OmniError(
                f"the vocab has {vocab.span('text').size} text ids but the text ranks have "
                f"{text.size}; set text: {text.size} in the recipe's vocab"
            )
        self.vocab, self.text = vocab, text
        self.image_columns, self.codebooks = image_columns, codebooks
        self.sizes = {"image_columns": image_columns, "codebooks": codebooks}
        self.request_image_columns = request_image_columns or image_columns
        self.request_sizes = {**self.sizes, "image_columns": self.request_image_columns}
        self.max_tail_pads = max_tail_pads

    def render(self, sample: Sample, *, rng: Random, drop: Collection[str] = ()) -> TokenSequence:
        """Render a sample for training; `rng` draws which of its answer parts is the response.

        Args:
            sample: Encoded sample, whose media parts carry codes.
            rng: Source of the answer part and the number of tail pads.
            drop: Modalities of the user's content to leave out, speech with its transcript; the
                instruction stays. This trains the unconditional model that guidance needs.
        """
        answers = _answer_part_indices(sample)
        if not answers:
            raise OmniError(f"sample '{sample.key}' has no answer; prepare the data again")
        turn, part = rng.choice(answers)
        out = SequenceBuilder()
        self._write_context(out, sample, turn, part, drop)
        self._write_response(out, sample.turns[turn].parts, part, rng)
        return out.build(sample)

    def render_prompt(
        self,
        sample: Sample,
        *,
        part: int,
        length: int,
        fixed: Mapping[int, int] | None = None,
        drop: Collection[str] = (),
    ) -> tuple[TokenSequence, MaskedSpan]:
        """Render a sample for generation: one answer part of its last turn is a span of masks.

        Args:
            sample: Encoded sample; earlier parts of its last turn carry what was already generated.
            part: Index of the answer part; only its modality is read, later parts are ignored.
            length: Positions of the span.
            fixed: Fixed ids within the span, by position in it.
            drop: As in `render`.
        """
        out = SequenceBuilder()
        last = len(sample.turns) - 1
        self._write_context(out, sample, last, part, drop)
        modality = sample.turns[last].parts[part].modality
        span = self._write_masked_span(out, modality, length, fixed or {})
        return out.build(sample), span

    def without_tail_pads(self) -> Template:
        """Return the same template without tail pads, as generation uses it."""
        return type(self)(
            self.vocab,
            self.text,
            image_columns=self.image_columns,
            codebooks=self.codebooks,
            max_tail_pads={},
            request_image_columns=self.request_image_columns,
        )

    def answer_ids(self, parts: tuple[Part, ...], part: int) -> list[int]:
        """Return the ids of an answer part, its terminator included, tail pads excluded."""
        ids: list[int] = self._answer_ids(parts, part).tolist()
        return ids

    def answer_ending(self, parts: tuple[Part, ...], part: int) -> tuple[str, list[int]]:
        """Return how an answer part ends: text appended to its own, then ids."""
        terminator = modality_named(parts[part].modality).terminator
        return "", [] if terminator is None else [self.vocab.special_id(terminator)]

    def decode_answer_text(self, ids: list[int]) -> str:
        """Return the text of an answer's ids, without its ending."""
        return self.text.decode(ids)

    def _answer_ids(
        self, parts: tuple[Part, ...], part: int, *, tail_pads: int = 0
    ) -> NDArray[np.int64]:
        """Return the ids of an answer part, its terminator and tail pads included."""
        own, (suffix, end) = parts[part], self.answer_ending(parts, part)
        rest = [*end, *[self.vocab.pad_token_id] * tail_pads]
        if modality_named(own.modality).is_text:
            return np.array([*self.text.encode(f"{own.text or ''}{suffix}"), *rest], np.int64)
        codes = self.vocab.code_ids(own.modality, own.codes or ())
        return np.concatenate((codes, np.array(rest, np.int64)))

    def _write_context(
        self, out: SequenceBuilder, sample: Sample, turn: int, part: int, drop: Collection[str]
    ) -> None:
        """Write everything that precedes an answer part."""
        for i, earlier in enumerate(sample.turns[:turn]):
            self._open_turn(out, earlier.role)
            if earlier.role == "assistant":
                self._write_answer_parts(out, earlier.parts)
            else:
                self._write_user_turn(out, sample, earlier, with_instruction=i == 0, drop=drop)
            self._close_turn(out)
        self._open_turn(out, "assistant")
        before = sample.turns[turn].parts[:part]
        self._write_answer_parts(out, tuple(p for p in before if not is_dropped(p, drop)))

    def _write_masked_span(
        self, out: SequenceBuilder, modality: str, length: int, fixed: Mapping[int, int]
    ) -> MaskedSpan:
        """Write the masks of a response, some ids fixed, in its brackets, and close the turn."""
        self._write_bracket(out, "begin", modality)
        span = MaskedSpan(modality, out.length, out.length + length)
        ids = [fixed.get(i, self.vocab.mask_token_id) for i in range(length)]
        self._write_answer_ids(out, modality, ids)
        self._close_response(out, modality)
        return span

    def _write_response(
        self, out: SequenceBuilder, parts: tuple[Part, ...], part: int, rng: Random
    ) -> None:
        """Write the answer part to be predicted, its tail pads, and close the turn."""
        modality = parts[part].modality
        pads = self._draw_num_tail_pads(modality, rng)
        ids = self._answer_ids(parts, part, tail_pads=pads)
        self._write_bracket(out, "begin", modality)
        self._write_answer_ids(out, modality, ids, tail_pads=pads)
        self._close_response(out, modality)

    def _write_answer_ids(
        self,
        out: SequenceBuilder,
        modality: str,
        ids: Sequence[int] | NDArray[np.int64],
        *,
        tail_pads: int = 0,
    ) -> None:
        index = self.vocab.modalities.index(modality)
        out.append_ids(
            ids, grid=self._grid_positions(modality, len(ids)), answer_of=index, tail_pads=tail_pads
        )

    def _close_response(self, out: SequenceBuilder, modality: str) -> None:
        """Write the bracket that is not predicted, and the end of the turn."""
        if modality_named(modality).has_fixed_length:
            self._write_bracket(out, "end", modality)
        self._close_turn(out)

    def _open_turn(self, out: SequenceBuilder, role: str) -> None:
        out.append_ids([self.vocab.special_id(f"<|{role}|>")])

    def _close_turn(self, out: SequenceBuilder) -> None:
        out.append_ids([self.vocab.special_id("<|end_of_turn|>")])

    def _write_user_turn(
        self,
        out: SequenceBuilder,
        sample: Sample,
        turn: Turn,
        *,
        with_instruction: bool,
        drop: Collection[str],
    ) -> None:
        task = task_named(sample.task)
        if with_instruction and task.instruction:
            voice = sample.meta.get("voice", task.default_voice)
            out.append_ids(encode_fixed_text(self.text, task.instruction.format(voice=voice)))
        for part in turn.parts:
            if part.modality in drop:
                continue
            if modality_named(part.modality).is_text:
                out.append_ids(self.text.encode(part.text or ""))
            else:
                ids = self._code_ids(part, sample)
                self._write_bracket(out, "begin", part.modality)
                self._write_request_codes(out, part, ids, sample)
                self._write_bracket(out, "end", part.modality)

    def _write_answer_parts(self, out: SequenceBuilder, parts: tuple[Part, ...]) -> None:
        """Write answer parts that are context of a later one."""
        for i, part in enumerate(parts):
            self._write_bracket(out, "begin", part.modality)
            ids = self._answer_ids(parts, i)
            out.append_ids(ids, grid=self._grid_positions(part.modality, len(ids)))
            if modality_named(part.modality).has_fixed_length:
                self._write_bracket(out, "end", part.modality)

    def _draw_num_tail_pads(self, modality: str, rng: Random) -> int:
        units = rng.randint(0, self.max_tail_pads.get(modality, 0))
        return units * modality_named(modality).frame_size(self.sizes)

    def _write_bracket(self, out: SequenceBuilder, side: str, modality: str) -> None:
        row = modality_named(modality)
        token = row.begin if side == "begin" else row.end
        if token is not None:
            out.append_ids([self.vocab.special_id(token)])

    def _write_request_codes(
        self, out: SequenceBuilder, part: Part, ids: NDArray[np.int64], sample: Sample
    ) -> None:
        """Write the codes of a request's medium.

        Raises:
            OmniError: If it is a picture of another size than requests have.
        """
        wanted = self.request_image_columns**2
        if part.modality == IMAGE and len(ids) != wanted:
            raise OmniError(
                f"sample '{sample.key}' asks about a picture of {len(ids)} codes, wanted {wanted}; "
                "encode the data again with this recipe's data.request_image_size"
            )
        out.append_ids(
            ids, grid=modality_named(part.modality).grid_of(len(ids), self.request_sizes)
        )

    def _grid_positions(self, modality: str, length: int) -> NDArray[np.int64] | None:
        return modality_named(modality).grid_of(length, self.sizes)

    def _code_ids(self, part: Part, sample: Sample) -> NDArray[np.int64]:
        """Return the ids of a part's codes, the mask id where they are masked."""
        if part.codes is None:
            raise OmniError(f"sample '{sample.key}' holds {part.modality} without codes; encode it")
        ids = self.vocab.code_ids(part.modality, part.codes)
        if part.masked:
            ids[list(part.masked)] = self.vocab.mask_token_id
        return ids


@lru_cache(maxsize=4096)
def encode_fixed_text(tokenizer: TextTokenizer, text: str) -> tuple[int, ...]:
    """Return the ids of a text of the template, such as an instruction, which many samples hold."""
    return tuple(tokenizer.encode(text))


def is_dropped(part: Part, drop: Collection[str]) -> bool:
    """Return whether an answer part goes with the dropped modalities: a transcript with speech."""
    return SPEECH in drop and part.is_transcript


def _answer_part_indices(sample: Sample) -> list[tuple[int, int]]:
    """Return the indices (turn, part) of all answer parts."""
    return [
        (t, p)
        for t, turn in enumerate(sample.turns)
        if turn.role == "assistant"
        for p in range(len(turn.parts))
    ]
