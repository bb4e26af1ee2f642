"""Pack whole sequences into rows of one length, so that almost no position is wasted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

import numpy as np
import torch

from lightning_omni.errors import OmniError
from lightning_omni.types import Batch, Continuous, Sequence

LOOKAHEAD = 16
Visit = tuple[int, Sequence]


class _OpenRows:
    """Rows that are being filled."""

    def __init__(self, rows: int, row_length: int) -> None:
        self.rows: list[list[Visit]] = [[] for _ in range(rows)]
        self.room = [row_length] * rows

    def place(self, visit: Visit) -> bool:
        """Put a sequence into the fullest row that it fits in, if there is one."""
        length = len(visit[1].ids)
        fitting = [r for r, room in enumerate(self.room) if room >= length]
        if not fitting:
            return False
        row = min(fitting, key=lambda r: self.room[r])
        self.rows[row].append(visit)
        self.room[row] -= length
        return True


def pack(
    stream: Iterable[Visit],
    *,
    rows: int,
    row_length: int,
    pad_token_id: int,
    lookahead: int = LOOKAHEAD,
) -> Iterator[Batch]:
    """Fill `rows` rows best-fit; what fits in none waits for the next batch.

    A batch is emitted when more than `lookahead` sequences wait; they come first in the next one,
    so none waits long.

    Args:
        stream: `(visit, sequence)` pairs; the visit numbers the noise.
        rows: Rows of a batch, B.
        row_length: Positions of a row, L.
        pad_token_id: Id at the unused end of a row.
        lookahead: Sequences that may wait while later ones fill the gaps.

    Raises:
        OmniError: If a sequence is longer than a row.
    """
    open_rows, waiting = _OpenRows(rows, row_length), list[Visit]()
    for visit in stream:
        _check_length(visit[1], row_length)
        if not open_rows.place(visit):
            waiting.append(visit)
        if len(waiting) > lookahead:
            yield collate(open_rows.rows, row_length=row_length, pad_token_id=pad_token_id)
            open_rows = _OpenRows(rows, row_length)
            waiting = [late for late in waiting if not open_rows.place(late)]
    while any(open_rows.rows):
        yield collate(open_rows.rows, row_length=row_length, pad_token_id=pad_token_id)
        open_rows = _OpenRows(rows, row_length)
        waiting = [late for late in waiting if not open_rows.place(late)]


def _check_length(sequence: Sequence, row_length: int) -> None:
    if len(sequence.ids) > row_length:
        raise OmniError(
            f"sample '{sequence.key}' has {len(sequence.ids)} tokens but rows have {row_length}; "
            "raise row_length in the recipe or shorten the sample"
        )


def collate(rows: list[list[Visit]], *, row_length: int, pad_token_id: int) -> Batch:
    """Lay sequences one behind another; a row's unused end becomes a segment of its own."""
    filled: list[list[Visit]] = []
    for row in rows:
        unused = row_length - sum(len(s.ids) for _, s in row)
        filled.append([*row, (0, _filler(unused, pad_token_id))] if unused else row)
    flat = [pair for row in filled for pair in row]
    lengths = torch.tensor([len(s.ids) for _, s in flat])
    segment = torch.arange(len(flat)).repeat_interleave(lengths)
    shape = (len(rows), row_length)

    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        values = [x for _, s in flat for x in getattr(s, name)]
        return torch.tensor(values, dtype=dtype).view(*shape, *(3,) * (name == "position_ids"))

    return Batch(
        ids=column("ids", torch.long),
        position_ids=column("position_ids", torch.long),
        segment_ids=segment.view(shape),
        maskable=column("maskable", torch.bool),
        is_tail_pad=column("is_tail_pad", torch.bool),
        modality=column("modality", torch.long),
        tasks=torch.tensor([s.task for _, s in flat]),
        cu_seqlens=torch.cat((torch.zeros(1, dtype=torch.long), lengths.cumsum(0))).int(),
        num_segments=len(flat),
        visits=torch.tensor([v for v, _ in flat]),
        continuous=lay_features([s for _, s in flat]),
    )


def lay_features(sequences: list[Sequence]) -> Continuous | None:
    """Continuous features of sequences that lie one behind another; None if they have none.

    Raises:
        OmniError: If they are of several widths.
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
    places = [torch.arange(first, first + len(features)) for first, features in runs]
    stacked = np.concatenate([features for _, features in runs])
    return Continuous(torch.cat(places), torch.from_numpy(stacked))


def _filler(length: int, pad_token_id: int) -> Sequence:
    places = [(i, 0, 0) for i in range(length)]
    no = [False] * length
    return Sequence([pad_token_id] * length, places, no, no, [-1] * length, -1, "")
