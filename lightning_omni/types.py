"""The values that travel between files: what a sample is, before and after rendering.

Shape legend of the project: B rows, L tokens of a row, N segments or codes, V vocabulary, D width,
H heads, C channels, T samples or frames, Y X image rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Role = Literal["system", "user", "assistant"]
SPLITS = (
    "train",
    "val",
    "test_iid",
    "test_comp",
    "test_style",
    "test_voice",
    "test_words",
    "test_xmodal",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a turn.

    Attributes:
        modality: `text` or the name of a modality.
        text: content of a text; `___` in an answer that is being generated is a blank.
        key: file in the media shards, before encoding.
        codes: content of media, after encoding.
        is_transcript: whether it is the text of the user's speech that the assistant writes before
            it answers.
        masked: positions of codes that are masked: in a request, hidden from the model; in an
            answer, to be generated. Shards hold none.
        features: frames of an encoder that replace the speech codes as model input, Float[K F].
            Not serialised.
    """

    modality: str
    text: str | None = None
    key: str | None = None
    codes: tuple[int, ...] | None = None
    is_transcript: bool = False
    masked: frozenset[int] = frozenset()
    features: NDArray[np.floating[Any]] | None = field(default=None, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether it has no content, so that an answer part is generated whole."""
        return not self.text and self.codes is None

    def to_json(self) -> dict[str, Any]:
        """`{"text": "hi"}`, `{"transcript": "hi"}`, `{"image": "<key>"}` or `{"image": [1, 2]}`."""
        if self.is_transcript:
            return {"transcript": self.text}
        value = self.text if self.modality == "text" else self.key
        return {self.modality: value if self.codes is None else list(self.codes)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Part:
        """Undo `to_json`."""
        ((modality, value),) = plain.items()
        if modality in ("text", "transcript"):
            return cls("text", text=value, is_transcript=modality == "transcript")
        if isinstance(value, list):
            return cls(modality, codes=tuple(value))
        return cls(modality, key=value)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One example of a task, as stored in a shard. `meta` holds the facts evaluation needs."""

    key: str
    task: str
    turns: tuple[Turn, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def unanswered(self) -> Sample:
        """Return the sample with an empty last turn of the same modalities, without transcript."""
        *before, last = self.turns
        parts = tuple(Part(part.modality) for part in last.parts if not part.is_transcript)
        return replace(self, turns=(*before, Turn(last.role, parts)))

    def to_json(self) -> dict[str, Any]:
        """Plain form written as `KEY.json`."""
        turns = [{"role": t.role, "parts": [p.to_json() for p in t.parts]} for t in self.turns]
        return {"task": self.task, "turns": turns, "meta": self.meta}

    @classmethod
    def from_json(cls, key: str, plain: dict[str, Any]) -> Sample:
        """Undo `to_json`."""
        turns = tuple(
            Turn(t["role"], tuple(Part.from_json(p) for p in t["parts"])) for t in plain["turns"]
        )
        return cls(key, plain["task"], turns, plain.get("meta", {}))


@dataclass(frozen=True, slots=True)
class Sequence:
    """One rendered sample: ids with their places. Plain lists, all of one length.

    `position_ids` holds `(index, row, column)` per token: the index in the sequence, and the place
    on an image's grid or a speech frame's (frame, codebook level); zero for everything else.
    `features` are runs of continuous features, (first place, Float[K F]).
    """

    ids: list[int]
    position_ids: list[tuple[int, int, int]]
    maskable: list[bool]
    is_tail_pad: list[bool]
    modality: list[int]
    task: int
    key: str
    features: tuple[tuple[int, NDArray[np.floating[Any]]], ...] = ()


@dataclass(frozen=True, slots=True)
class Continuous:
    """Features that stand in for the embeddings of some tokens of a flat run."""

    places: Tensor  # Int[K], each once
    features: Tensor  # Float[K F]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Continuous:
        """Move both."""
        moved = (t.to(device, non_blocking=non_blocking) for t in (self.places, self.features))
        return Continuous(*moved)

    def among(self, places: Tensor) -> Continuous:
        """Those of the tokens at these places, Int[R] ascending, counted among them."""
        is_there = torch.isin(self.places, places)
        rows = torch.searchsorted(places, self.places[is_there])
        return Continuous(rows, self.features[is_there])


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows of whole sequences. `segment_ids` number the segments 0..num_segments-1.

    Segments lie one behind another in the flattened batch: segment n covers the flat positions
    `[cu_seqlens[n], cu_seqlens[n + 1])`. The unused end of a row is a segment of its own with
    nothing maskable.
    """

    ids: Tensor  # Int[B L]
    position_ids: Tensor  # Int[B L 3]
    segment_ids: Tensor  # Int[B L]
    maskable: Tensor  # Bool[B L]
    is_tail_pad: Tensor  # Bool[B L]
    modality: Tensor  # Int[B L], index into vocab.modalities; -1 where nothing is maskable
    tasks: Tensor  # Int[N], index into tasks.TASKS; -1 for a row's unused end
    cu_seqlens: Tensor  # Int32[N + 1], on the CPU
    num_segments: int
    visits: Tensor  # Int64[N], number of the visit, or of the complement of one (negative); with
    # the seed it determines the noise
    continuous: Continuous | None  # None where no sample has continuous features

    def position(self) -> Tensor:
        """Place of each token in its segment, Int[B * L]."""
        segment = self.segment_ids.flatten()
        index = torch.arange(len(segment), device=segment.device)
        return index - self.cu_seqlens.long().to(segment.device)[segment]

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor but `cu_seqlens`, which steers loops on the host."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            stays = f.name == "cu_seqlens" or not isinstance(value, Tensor | Continuous)
            moved[f.name] = value if stays else value.to(device, non_blocking=True)
        return Batch(**moved)
