"""The values that travel between files: samples before and after rendering, and batches.

Shape legend of the project: B rows, L tokens of a row, T tokens of a batch (samples or frames of
speech), N segments or codes, M masked tokens, V vocabulary, D width, H heads, C channels, Y X image
rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Role = Literal["system", "user", "assistant"]
SEGMENTS = 64
"""Multiple to which the segments of a batch are padded."""
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
    """One message: its role and its parts."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One example of a task, as stored in a shard; `meta` holds the facts evaluation needs."""

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
        """Return the plain form that is stored as `KEY.json`."""
        turns = [{"role": t.role, "parts": [p.to_json() for p in t.parts]} for t in self.turns]
        return {"task": self.task, "turns": turns, "meta": self.meta}

    @classmethod
    def from_json(cls, key: str, plain: dict[str, Any]) -> Sample:
        """Undo `to_json`."""
        turns = tuple(
            Turn(t["role"], tuple(Part.from_json(p) for p in t["parts"])) for t in plain["turns"]
        )
        return cls(key, plain["task"], turns, plain.get("meta", {}))


@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """One rendered sample of n tokens.

    Attributes:
        ids: Token ids, Int[n].
        position_ids: `(index, row, column)` of each token: its index in the sequence, and its cell
            on an image's grid or in a speech frame (frame, codebook level), counted from 1; zeros
            for a token on no grid. Int[n 3].
        maskable: Whether the token belongs to the response, so that training may mask it, Bool[n].
        is_tail_pad: Whether it is a tail pad of the response, Bool[n].
        modality: Index of the response's modality in `Vocab.modalities`, Int[n]; -1 where not
            maskable.
        task: Index into `tasks.TASKS`.
        key: Key of the sample.
        features: Runs of continuous features, (index of the first token, Float[K F]).
    """

    ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    maskable: NDArray[np.bool_]
    is_tail_pad: NDArray[np.bool_]
    modality: NDArray[np.int64]
    task: int
    key: str
    features: tuple[tuple[int, NDArray[np.floating[Any]]], ...] = ()


class _PickledAsArrays:
    """A dataclass of tensors that leaves a loader's worker as one message.

    torch hands each CPU tensor over as a file of shared memory, which for a row of 3,072 tokens
    costs both sides five times what copying takes. Numbers that fit in 32 bits are sent so: half
    the bytes leave more of a processor's cache to rendering.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        values = [_tensor_to_array(getattr(self, name)) for name in names]
        halved = []
        for i, value in enumerate(values):
            if getattr(value, "dtype", None) == np.int64 and _fits_in_32_bits(value):
                values[i] = value.astype(np.int32)
                halved.append(i)
        return _from_arrays, (type(self), values, halved)


def _fits_in_32_bits(numbers: NDArray[np.int64]) -> bool:
    limits = np.iinfo(np.int32)
    return numbers.size == 0 or bool(limits.min <= numbers.min() and numbers.max() <= limits.max)


Tensors = TypeVar("Tensors", bound=_PickledAsArrays)


def _with_tensors(holder: Tensors, change: Callable[[Any], Any]) -> Tensors:
    """Return a copy of a dataclass in which everything made of tensors is changed."""
    values = {f.name: getattr(holder, f.name) for f in fields(holder)}  # type: ignore[arg-type]
    changed = {k: change(v) for k, v in values.items() if isinstance(v, (Tensor, _PickledAsArrays))}
    return type(holder)(**(values | changed))


def _tensor_to_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) and value.device.type == "cpu" else value


def _from_arrays(kind: type[Any], values: list[Any], halved: list[int]) -> Any:
    for i in halved:
        values[i] = values[i].astype(np.int64)
    return kind(*[torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in values])


@dataclass(frozen=True, slots=True)
class ContinuousFeatures(_PickledAsArrays):
    """Features that replace the embeddings of some tokens of a flat run.

    Attributes:
        positions: Flat indices of those tokens, each once, Int[K].
        features: Their features, Float[K F].
    """

    positions: Tensor
    features: Tensor

    def pin_memory(self) -> ContinuousFeatures:
        """Return a copy in pinned memory."""
        return _with_tensors(self, lambda value: value.pin_memory())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ContinuousFeatures:
        """Return a copy on another device."""
        return _with_tensors(self, lambda value: value.to(device, non_blocking=non_blocking))

    def at_positions(self, positions: Tensor) -> ContinuousFeatures:
        """Return the features of the tokens at `positions`, Int[R] ascending, indexed within it."""
        is_there = torch.isin(self.positions, positions)
        index = torch.searchsorted(positions, self.positions[is_there])
        return ContinuousFeatures(index, self.features[is_there])


@dataclass(frozen=True, slots=True)
class NoisyBatch(_PickledAsArrays):
    """A batch after the forward process, flat as `Batch`.

    `positions` may be padded to a multiple, so that few shapes occur: surplus ones repeat the last,
    are not masked and weigh 0.

    Attributes:
        x_t: Ids, masks included, Int[T].
        positions: Flat indices of the tokens with a loss, ascending, Int[M].
        is_masked: Whether each of them is masked; others are visible and may be wrong, Bool[M].
        weight: Loss weight of each, Float[M].
        ratio: Mask ratio of each one's sample and modality, Float[M].
        nelbo_weight: Weight of each answer token in the NELBO, whatever the loss weighs, Float[M];
            None if the masks are not drawn so that there is an estimate of it.
        num_losses: Number of tokens with a loss, surplus positions not counted; None if the host
            would have to wait for it.
    """

    x_t: Tensor
    positions: Tensor
    is_masked: Tensor
    weight: Tensor
    ratio: Tensor
    nelbo_weight: Tensor | None = None
    num_losses: int | None = None

    def pin_memory(self) -> NoisyBatch:
        """Return a copy in pinned memory."""
        return _with_tensors(self, lambda value: value.pin_memory())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> NoisyBatch:
        """Return a copy on another device."""
        return _with_tensors(self, lambda value: value.to(device, non_blocking=non_blocking))


@dataclass(frozen=True, slots=True)
class Batch(_PickledAsArrays):
    """Packed sequences, flat: T tokens in N segments that follow each other.

    A segment is a sequence, or the unused end of a row, in which nothing is maskable. All that
    depends on the data is computed where the batch is packed.

    Attributes:
        ids: Token ids, Int[T].
        position_ids: See `TokenSequence`, Int[T 3].
        segment_ids: Index of each token's segment, Int[T].
        positions: Index of each token within its segment, Int[T].
        maskable: Whether the token belongs to a response, Bool[T].
        is_tail_pad: Whether it is a tail pad of a response, Bool[T].
        is_answer: Whether it is maskable and no tail pad: the tokens of which the loss is a mean,
            Bool[T].
        answer_positions: Flat indices of these tokens, ascending, Int[A].
        modality: Index into `Vocab.modalities`, -1 where nothing is maskable, Int[T].
        tasks: Index into `tasks.TASKS`, -1 for a row's unused end, Int[N].
        sample_index: Global sample index; negative for the complementary mask of a pair. Together
            with the seed it determines the noise. Int64[N].
        cu_seqlens: Cumulative lengths of the segments, for attention kernels; padded with its last
            value, as if empty segments followed, to a multiple of `SEGMENTS` of them. Int32[P + 1].
        lengths: Tokens of each segment, in order.
        host_tasks: The values of `tasks`, which no device need be asked for.
        num_maskable: Number of maskable tokens.
        num_rows: Rows that were packed, B; T = B * L.
        codebooks: Speech codes per frame.
        continuous: Features that replace the embeddings of some tokens; None where no sample has
            any.
        noisy: The same batch after the forward process; None until it has run.
        keys: Key of each segment's sample, empty for a row's unused end; none where it is not told.
    """

    ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    positions: Tensor
    maskable: Tensor
    is_tail_pad: Tensor
    is_answer: Tensor
    answer_positions: Tensor
    modality: Tensor
    tasks: Tensor
    sample_index: Tensor
    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    host_tasks: tuple[int, ...]
    num_maskable: int
    num_rows: int
    codebooks: int
    continuous: ContinuousFeatures | None
    noisy: NoisyBatch | None = None
    keys: tuple[str, ...] = ()

    @property
    def num_segments(self) -> int:
        """Number of segments, N."""
        return len(self.lengths)

    @property
    def row_length(self) -> int:
        """Tokens of a row, L, which no segment exceeds."""
        return len(self.ids) // self.num_rows

    def pin_memory(self) -> Batch:
        """Return a copy in pinned memory, from which copies to a GPU do not wait."""
        return _with_tensors(self, lambda value: value.pin_memory())

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        """Return a copy whose tensors are on another device.

        Args:
            device: The device.
            non_blocking: Whether to return before copies out of pinned memory are done.
        """
        return _with_tensors(self, lambda value: value.to(device, non_blocking=non_blocking))
