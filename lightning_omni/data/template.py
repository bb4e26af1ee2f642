"""Render a sample to ids: chat turns, bracketed media, answer holes with their tail pads.

Training and generation share this file. A hole is where an answer part goes: in training it holds
the answer, its terminator and tail pads; in generation it holds masks. Brackets and turn ends
around a hole are known beforehand, so they are written, never predicted.

Answers of several parts (text, then the speech that says it) are a chain: a sequence has one hole,
the parts before it are given and those behind it are not there yet, in training as in generation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_omni.errors import OmniError
from lightning_omni.tasks import TASK_NAMES, task_named
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Sequence, Turn
from lightning_omni.vocab import Vocab

DEFAULT_VOICE = task_named("tts").default_voice  # moved to the table of tasks


@dataclass(frozen=True, slots=True)
class Hole:
    """A run of positions the model fills: `[start, stop)` of a sequence, all of one modality."""

    modality: str
    start: int
    stop: int


@dataclass(slots=True)
class Builder:
    """Collects tokens with their places while a sample is rendered."""

    ids: list[int] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    maskable: list[bool] = field(default_factory=list)
    is_tail_pad: list[bool] = field(default_factory=list)
    modality: list[int] = field(default_factory=list)
    features: list[tuple[int, NDArray[np.floating[Any]]]] = field(default_factory=list)

    def add(
        self,
        ids: list[int],
        *,
        grid: list[tuple[int, int]] | None = None,
        answer_of: int = -1,
        tail_pads: int = 0,
    ) -> None:
        """Append ids; `answer_of` is the modality index if they are to be predicted."""
        start = len(self.ids)
        self.ids.extend(ids)
        grid = grid or []
        for offset in range(len(ids)):
            row, column = grid[offset] if offset < len(grid) else (0, 0)
            self.places.append((start + offset, row, column))
        self.maskable.extend([answer_of >= 0] * len(ids))
        self.modality.extend([answer_of] * len(ids))
        self.is_tail_pad.extend(i >= len(ids) - tail_pads for i in range(len(ids)))


class Template:
    """Turns samples into sequences over one vocabulary.

    Args:
        vocab: The joint id space.
        text: Its text tokenizer.
        image_columns: Codes per image row, to place image codes on their grid.
        codebooks: Speech codes per frame, to place speech codes in their frame.
        max_tail_pads: By modality; training appends 0..this many extra pads (for speech, frames of
            them) to a hole, so that generation may offer a hole that is too long by as much.
            Modalities not named get none.
    """

    def __init__(
        self,
        vocab: Vocab,
        text: TextTokenizer,
        *,
        image_columns: int,
        codebooks: int,
        max_tail_pads: dict[str, int],
    ) -> None:
        unknown = sorted(set(max_tail_pads) - {"text", "speech"})
        if unknown:
            raise OmniError(
                f"max_tail_pads is given for {', '.join(unknown)}, whose answers have one length; "
                "it takes text and speech"
            )
        if text.size != vocab.span("text").size:
            raise OmniError(
                f"the vocab has {vocab.span('text').size} text ids but the text ranks have "
                f"{text.size}; set text: {text.size} in the recipe's vocab"
            )
        self.vocab, self.text = vocab, text
        self.image_columns, self.codebooks = image_columns, codebooks
        self.max_tail_pads = max_tail_pads

    def render(self, sample: Sample, *, rng: Random, drop: Collection[str] = ()) -> Sequence:
        """Render a sample for training, with one of its answer parts, drawn by `rng`, in the hole.

        Args:
            sample: Encoded: media parts carry codes.
            rng: Draws the part and the number of tail pads.
            drop: Modalities of the user's content to leave out, speech with its transcript; the
                instruction stays. So guidance has a trained unconditional model.
        """
        turn, part = rng.choice(_answers(sample))
        out = Builder()
        self._before(out, sample, turn, part, drop)
        self._answer(out, sample.turns[turn].parts, part, rng)
        return self._sequence(out, sample)

    def render_prompt(
        self,
        sample: Sample,
        *,
        part: int,
        length: int,
        given: Mapping[int, int] | None = None,
        drop: Collection[str] = (),
    ) -> tuple[Sequence, list[Hole]]:
        """Render a sample for generation: an answer part of its last turn becomes a hole of masks.

        Args:
            sample: Encoded; parts of its last turn before `part` carry what was already answered.
            part: The answer part that is the hole; of it and those behind only the modality counts.
            length: Positions of the hole.
            given: Ids that the hole already holds, by their place in it.
            drop: As in `render`.
        """
        out = Builder()
        last = len(sample.turns) - 1
        self._before(out, sample, last, part, drop)
        hole = self._hole(out, sample.turns[last].parts[part].modality, length, given or {})
        return self._sequence(out, sample), [hole]

    def without_tail_pads(self) -> Template:
        """The same layout for generation, where a hole is as long as it is asked to be."""
        return type(self)(
            self.vocab,
            self.text,
            image_columns=self.image_columns,
            codebooks=self.codebooks,
            max_tail_pads={},
        )

    def hole_ids(self, parts: tuple[Part, ...], part: int) -> list[int]:
        """Ids of an answer part with what ends it, as its hole holds them before any tail pads."""
        own, (after, end) = parts[part], self.ending(parts, part)
        if own.modality == "text":
            return [*self.text.encode(f"{own.text or ''}{after}"), *end]
        return [*self.vocab.to_ids(own.modality, list(own.codes or ())), *end]

    def ending(self, parts: tuple[Part, ...], part: int) -> tuple[str, list[int]]:
        """What ends an answer part in its hole: text that joins its own, then ids."""
        modality = parts[part].modality
        if modality == "image":
            return "", []
        is_text = modality == "text"
        return "", [self.vocab.pad_token_id if is_text else self.vocab.special("<|end_of_speech|>")]

    def answer_text(self, ids: list[int]) -> str:
        """Text of an answer's ids, without what ends it."""
        return self.text.decode(ids)

    def _before(
        self, out: Builder, sample: Sample, turn: int, part: int, drop: Collection[str]
    ) -> None:
        """Write everything that is given when a part of a turn is answered."""
        for i, earlier in enumerate(sample.turns[:turn]):
            self._open(out, earlier.role)
            if earlier.role == "assistant":
                self._give(out, earlier.parts)
            else:
                self._ask(out, sample, earlier, with_instruction=i == 0, drop=drop)
            self._close(out)
        self._open(out, "assistant")
        given = sample.turns[turn].parts[:part]
        self._give(out, tuple(p for p in given if not ("speech" in drop and p.is_transcript)))

    def _hole(self, out: Builder, modality: str, length: int, given: Mapping[int, int]) -> Hole:
        """Write a hole of masks but for what is given, in its brackets, and close the turn."""
        self._bracket(out, "begin", modality)
        start = len(out.ids)
        ids = [given.get(i, self.vocab.mask_token_id) for i in range(length)]
        index = self.vocab.modalities.index(modality)
        out.add(ids, grid=self._grid(modality, length), answer_of=index)
        if modality == "image":
            self._bracket(out, "end", modality)
        self._close(out)
        return Hole(modality, start, start + length)

    def _open(self, out: Builder, role: str) -> None:
        out.add([self.vocab.special(f"<|{role}|>")])

    def _close(self, out: Builder) -> None:
        out.add([self.vocab.special("<|end_of_turn|>")])

    def _ask(
        self,
        out: Builder,
        sample: Sample,
        turn: Turn,
        *,
        with_instruction: bool,
        drop: Collection[str],
    ) -> None:
        task = task_named(sample.task)
        if with_instruction and task.instruction:
            voice = sample.meta.get("voice", task.default_voice)
            out.add(self.text.encode(task.instruction.format(voice=voice)))
        for part in turn.parts:
            if part.modality in drop:
                continue
            if part.modality == "text":
                out.add(self.text.encode(part.text or ""))
            else:
                ids = self.vocab.to_ids(part.modality, self._codes(part, sample))
                for place in part.masked:
                    ids[place] = self.vocab.mask_token_id
                self._bracket(out, "begin", part.modality)
                out.add(ids, grid=self._grid(part.modality, len(ids)))
                self._bracket(out, "end", part.modality)

    def _give(self, out: Builder, parts: tuple[Part, ...]) -> None:
        """Write answer parts that are already there."""
        for i, part in enumerate(parts):
            self._bracket(out, "begin", part.modality)
            ids = self.hole_ids(parts, i)
            out.add(ids, grid=self._grid(part.modality, len(ids)))
            if part.modality == "image":
                self._bracket(out, "end", "image")

    def _answer(self, out: Builder, parts: tuple[Part, ...], part: int, rng: Random) -> None:
        """Write the part that is to be predicted, its tail pads behind it, and close the turn."""
        modality = parts[part].modality
        pads = self._tail_pads(modality, rng)
        ids = self.hole_ids(parts, part) + [self.vocab.pad_token_id] * pads
        self._bracket(out, "begin", modality)
        index = self.vocab.modalities.index(modality)
        out.add(ids, grid=self._grid(modality, len(ids)), answer_of=index, tail_pads=pads)
        if modality == "image":
            self._bracket(out, "end", "image")
        self._close(out)

    def _tail_pads(self, modality: str, rng: Random) -> int:
        pads = rng.randint(0, self.max_tail_pads.get(modality, 0))
        return pads * self.codebooks if modality == "speech" else pads

    def _bracket(self, out: Builder, side: str, modality: str) -> None:
        if modality != "text":
            out.add([self.vocab.special(f"<|{side}_of_{modality}|>")])

    def _grid(self, modality: str, length: int) -> list[tuple[int, int]]:
        """Places counted from 1, so that (0, 0) means "not on a grid"."""
        width = {"image": self.image_columns, "speech": self.codebooks}.get(modality)
        return [] if width is None else [(i // width + 1, i % width + 1) for i in range(length)]

    def _codes(self, part: Part, sample: Sample) -> list[int]:
        if part.codes is None:
            raise OmniError(f"sample '{sample.key}' holds {part.modality} without codes; encode it")
        return list(part.codes)

    def _sequence(self, out: Builder, sample: Sample) -> Sequence:
        task = TASK_NAMES.index(sample.task)
        return Sequence(
            out.ids,
            out.places,
            out.maskable,
            out.is_tail_pad,
            out.modality,
            task,
            sample.key,
            tuple(out.features),
        )


def _answers(sample: Sample) -> list[tuple[int, int]]:
    """Places (turn, part) of everything the assistant says."""
    return [
        (t, p)
        for t, turn in enumerate(sample.turns)
        if turn.role == "assistant"
        for p in range(len(turn.parts))
    ]
