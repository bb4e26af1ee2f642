"""Pack whole sequences into rows of one length, so that almost no position is wasted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from lightning_omni.errors import OmniError
from lightning_omni.types import Batch, Sequence


def pack(
    stream: Iterable[tuple[int, Sequence]], *, rows: int, row_length: int, pad_token_id: int
) -> Iterator[Batch]:
    """Fill `rows` rows first-fit and emit a batch when the next sequence fits in none.

    Args:
        stream: `(visit, sequence)` pairs; the visit numbers the noise.
        rows: Rows of a batch, B.
        row_length: Positions of a row, L.
        pad_token_id: Id at the unused end of a row.

    Raises:
        OmniError: If a sequence is longer than a row.
    """
    open_rows: list[list[tuple[int, Sequence]]] = [[] for _ in range(rows)]
    room = [row_length] * rows
    for visit, sequence in stream:
        length = len(sequence.ids)
        if length > row_length:
            raise OmniError(
                f"sample '{sequence.key}' has {length} tokens but rows have {row_length}; raise "
                "row_length in the recipe or shorten the sample"
            )
        row = next((r for r in range(rows) if room[r] >= length), None)
        if row is None:
            yield collate(open_rows, row_length=row_length, pad_token_id=pad_token_id)
            open_rows, room, row = [[] for _ in range(rows)], [row_length] * rows, 0
        open_rows[row].append((visit, sequence))
        room[row] -= length
    if any(open_rows):
        yield collate(open_rows, row_length=row_length, pad_token_id=pad_token_id)


def collate(rows: list[list[tuple[int, Sequence]]], *, row_length: int, pad_token_id: int) -> Batch:
    """Lay sequences one behind another; a row's unused end becomes a segment of its own."""
    filled: list[list[tuple[int, Sequence]]] = []
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
    )


def _filler(length: int, pad_token_id: int) -> Sequence:
    places = [(i, 0, 0) for i in range(length)]
    no = [False] * length
    return Sequence([pad_token_id] * length, places, no, no, [-1] * length, -1, "")
