"""Pack whole sequences into rows of one length, so that almost no position is wasted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

import numpy as np
import torch

from lightning_omni.errors import OmniError
from lightning_omni.types import Batch, ContinuousFeatures, TokenSequence

LOOKAHEAD = 16
Indexed = tuple[int, TokenSequence]
"""A sequence with its global sample index."""


class _OpenRows:
    """Rows that are being filled."""

    def __init__(self, rows: int, row_length: int) -> None:
        self.rows: list[list[Indexed]] = [[] for _ in range(rows)]
        self.room = [row_length] * rows

    def add(self, item: Indexed) -> bool:
        """Put a sequence into the fullest row that has room for it; return False if none has."""
        length = len(item[1].ids)
        fitting = [r for r, room in enumerate(self.room) if room >= length]
        if not fitting:
            return False
        row = min(fitting, key=lambda r: self.room[r])
        self.rows[row].append(item)
        self.room[row] -= length
        return True


def pack(
    stream: Iterable[Indexed],
    *,
    rows: int,
    row_length: int,
    pad_token_id: int,
    codebooks: int = 1,
    lookahead: int = LOOKAHEAD,
) -> Iterator[Batch]:
    """Yield batches of `rows` rows, filled best-fit; a sequence that fits in none waits.

    A batch is emitted when more than `lookahead` sequences wait; they come first in the next one,
    so none waits long.

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

    def batch() -> Batch:
        return collate(
            open_rows.rows, row_length=row_length, pad_token_id=pad_token_id, codebooks=codebooks
        )

    open_rows, waiting = _OpenRows(rows, row_length), list[Indexed]()
    for item in stream:
        _check_length(item[1], row_length)
        if not open_rows.add(item):
            waiting.append(item)
        if len(waiting) > lookahead:
            yield batch()
            open_rows = _OpenRows(rows, row_length)
            waiting = [late for late in waiting if not open_rows.add(late)]
    while any(open_rows.rows):
        yield batch()
        open_rows = _OpenRows(rows, row_length)
        waiting = [late for late in waiting if not open_rows.add(late)]


def _check_length(sequence: TokenSequence, row_length: int) -> None:
    if len(sequence.ids) > row_length:
        raise OmniError(
            f"sample '{sequence.key}' has {len(sequence.ids)} tokens but rows have {row_length}; "
            "raise row_length in the recipe or shorten the sample"
        )


def collate(
    rows: list[list[Indexed]], *, row_length: int, pad_token_id: int, codebooks: int = 1
) -> Batch:
    """Concatenate the sequences of all rows; a row's unused end becomes a segment of its own."""
    flat: list[Indexed] = []
    for row in rows:
        unused = row_length - sum(len(s.ids) for _, s in row)
        flat += [*row, (0, _unused_end(unused, pad_token_id))] if unused else row
    sequences = [sequence for _, sequence in flat]
    lengths = [len(s.ids) for s in sequences]
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    segment_ids = np.repeat(np.arange(len(flat)), lengths)

    def column(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(s, name) for s in sequences]))

    maskable, is_tail_pad = column("maskable"), column("is_tail_pad")
    is_answer = maskable & ~is_tail_pad
    return Batch(
        ids=column("ids"),
        position_ids=column("position_ids"),
        segment_ids=torch.from_numpy(segment_ids),
        positions=torch.from_numpy(np.arange(bounds[-1]) - bounds[segment_ids]),
        maskable=maskable,
        is_tail_pad=is_tail_pad,
        is_answer=is_answer,
        answer_positions=is_answer.nonzero().squeeze(1),
        modality=column("modality"),
        tasks=torch.tensor([s.task for s in sequences]),
        sample_index=torch.tensor([index for index, _ in flat]),
        cu_seqlens=torch.from_numpy(bounds.astype(np.int32)),
        lengths=tuple(lengths),
        host_tasks=tuple(s.task for s in sequences),
        num_maskable=int(maskable.sum()),
        num_rows=len(rows),
        codebooks=codebooks,
        continuous=concatenate_features(sequences),
    )


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


def _unused_end(length: int, pad_token_id: int) -> TokenSequence:
    """Return the unused end of a row."""
    position_ids = np.zeros((length, 3), dtype=np.int64)
    position_ids[:, 0] = np.arange(length)
    no = np.zeros(length, dtype=np.bool_)
    ids = np.full(length, pad_token_id)
    return TokenSequence(ids, position_ids, no, no, np.full(length, -1), -1, "")
