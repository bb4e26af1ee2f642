"""Pack whole sequences into rows of one length, so that almost no position is wasted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_omni.errors import OmniError
from lightning_omni.types import SEGMENTS, Batch, ContinuousFeatures, TokenSequence

LOOKAHEAD = 16
Indexed = tuple[int, TokenSequence]
"""A sequence with its global sample index."""
Tag = TypeVar("Tag")


class Packer(Generic[Tag]):
    """Packs sequences into batches of `rows` rows, best-fit; a sequence that fits in none waits.

    A batch is full when more than `lookahead` sequences wait; they come first in the next one, so
    none waits long.

    Args:
        rows: Rows of a batch, B.
        row_length: Positions of a row, L.
        pad_token_id: Id at the unused end of a row.
        codebooks: Speech codes per frame.
        lookahead: Sequences that may wait while later ones fill the remaining room.

    Attributes:
        pending: Tags of the sequences that waited when the last batch was emitted, in order. A
            packer that is given the same sequences goes on as this one.
    """

    def __init__(
        self,
        *,
        rows: int,
        row_length: int,
        pad_token_id: int,
        codebooks: int = 1,
        lookahead: int = LOOKAHEAD,
    ) -> None:
        self.num_rows, self.row_length, self.lookahead = rows, row_length, lookahead
        self.pad_token_id, self.codebooks = pad_token_id, codebooks
        self.pending: list[Tag] = []
        self._waiting: list[tuple[Indexed, Tag]] = []
        self._open_rows()

    @property
    def is_batch_ready(self) -> bool:
        """Whether the batch should be emitted."""
        return len(self._waiting) > self.lookahead

    @property
    def is_empty(self) -> bool:
        """Whether no sequence is left."""
        return not any(self._rows)

    def add_sequence(self, item: Indexed, tag: Tag) -> None:
        """Put a sequence into the fullest row that has room for it, or let it wait.

        Raises:
            OmniError: If it is longer than a row.
        """
        length = len(item[1].ids)
        if length > self.row_length:
            raise OmniError(
                f"sample '{item[1].key}' has {length} tokens but rows have {self.row_length}; "
                "raise row_length in the recipe or shorten the sample"
            )
        fitting = [r for r, room in enumerate(self._room) if room >= length]
        if not fitting:
            self._waiting.append((item, tag))
            return
        row = min(fitting, key=lambda r: self._room[r])
        self._rows[row].append(item)
        self._room[row] -= length

    def restore_waiting(self, items: Iterable[tuple[Indexed, Tag]]) -> None:
        """Begin a batch with sequences that waited."""
        late = list(items)
        self.pending = [tag for _, tag in late]
        self._open_rows()
        for item, tag in late:
            self.add_sequence(item, tag)

    def emit_batch(self) -> Batch:
        """Return the batch, and begin the next one with the sequences that wait."""
        batch = collate(
            self._rows,
            row_length=self.row_length,
            pad_token_id=self.pad_token_id,
            codebooks=self.codebooks,
        )
        self.restore_waiting(self._waiting)
        return batch

    def _open_rows(self) -> None:
        self._waiting = []
        self._rows: list[list[Indexed]] = [[] for _ in range(self.num_rows)]
        self._room = [self.row_length] * self.num_rows


def pack_stream(
    stream: Iterable[Indexed],
    *,
    rows: int,
    row_length: int,
    pad_token_id: int,
    codebooks: int = 1,
    lookahead: int = LOOKAHEAD,
) -> Iterator[Batch]:
    """Yield the batches of a stream that ends; see `Packer`.

    Args:
        stream: `(sample index, sequence)` pairs; the sample index determines the noise.
        rows: Rows of a batch, B.
        row_length: Positions of a row, L.
        pad_token_id: Id at the unused end of a row.
        codebooks: Speech codes per frame.
        lookahead: Sequences that may wait while later ones fill the remaining room.

    Raises:
        OmniError: If a sequence is longer than a row.
    """
    packer = Packer[None](
        rows=rows,
        row_length=row_length,
        pad_token_id=pad_token_id,
        codebooks=codebooks,
        lookahead=lookahead,
    )
    for item in stream:
        packer.add_sequence(item, None)
        if packer.is_batch_ready:
            yield packer.emit_batch()
    while not packer.is_empty:
        yield packer.emit_batch()


def collate(
    rows: list[list[Indexed]], *, row_length: int, pad_token_id: int, codebooks: int = 1
) -> Batch:
    """Concatenate the sequences of all rows; a row's unused end becomes a segment of its own."""
    flat: list[Indexed] = []
    for row in rows:
        unused = row_length - sum(len(s.ids) for _, s in row)
        flat += [*row, (0, _unused_positions(unused, pad_token_id))] if unused else row
    sequences = [sequence for _, sequence in flat]
    lengths = [len(s.ids) for s in sequences]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    segment_ids = np.repeat(np.arange(len(flat)), lengths)

    def concatenate_column(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(s, name) for s in sequences]))

    maskable, is_tail_pad = concatenate_column("maskable"), concatenate_column("is_tail_pad")
    is_answer = maskable & ~is_tail_pad
    return Batch(
        ids=concatenate_column("ids"),
        position_ids=concatenate_column("position_ids"),
        segment_ids=torch.from_numpy(segment_ids),
        positions=torch.from_numpy(np.arange(offsets[-1]) - offsets[segment_ids]),
        maskable=maskable,
        is_tail_pad=is_tail_pad,
        is_answer=is_answer,
        answer_positions=is_answer.nonzero().squeeze(1),
        modality=concatenate_column("modality"),
        tasks=torch.tensor([s.task for s in sequences]),
        sample_index=torch.tensor([index for index, _ in flat]),
        cu_seqlens=torch.from_numpy(_pad_offsets(offsets)),
        lengths=tuple(lengths),
        host_tasks=tuple(s.task for s in sequences),
        num_maskable=int(maskable.sum()),
        num_rows=len(rows),
        codebooks=codebooks,
        continuous=concatenate_features(sequences),
        keys=tuple(s.key for s in sequences),
    )


def _pad_offsets(offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """Repeat the last of N + 1 offsets until there are a multiple of `SEGMENTS` of segments."""
    surplus = -(len(offsets) - 1) % SEGMENTS
    return np.pad(offsets, (0, surplus), mode="edge").astype(np.int32)


def concatenate_features(sequences: list[TokenSequence]) -> ContinuousFeatures | None:
    """Return the continuous features of concatenated sequences; None if they have none.

    Raises:
        OmniError: If features have several widths.
    """
    starts = accumulate((len(s.ids) for s in sequences), initial=0)
    runs = [
        (start + first, features)
        for start, s in zip(starts, sequences, strict=False)
        for first, features in s.features
    ]
    if not runs:
        return None
    widths = sorted({features.shape[1] for _, features in runs})
    if len(widths) > 1:
        raise OmniError(
            f"samples have features of {widths[0]} and of {widths[-1]} dimensions; encode them "
            "with one encoder"
        )
    positions = [torch.arange(first, first + len(features)) for first, features in runs]
    stacked = np.concatenate([features for _, features in runs])
    return ContinuousFeatures(torch.cat(positions), torch.from_numpy(stacked))


def _unused_positions(length: int, pad_token_id: int) -> TokenSequence:
    """Return the unused end of a row."""
    position_ids = np.zeros((length, 3), dtype=np.int64)
    position_ids[:, 0] = np.arange(length)
    no = np.zeros(length, dtype=np.bool_)
    ids = np.full(length, pad_token_id)
    return TokenSequence(ids, position_ids, no, no, np.full(length, -1), -1, "")
