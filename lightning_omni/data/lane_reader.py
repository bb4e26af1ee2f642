"""Read the samples of one kind of shard that one lane owns, and nothing else."""

from __future__ import annotations

from functools import lru_cache

from lightning_omni.data.shard_reader import SamplePool, ShardReader
from lightning_omni.data.storage.locations import Location

Cursor = tuple[int, int]
"""Number of a pool among a lane's own, and index in its permuted order."""


class LaneReader:
    """The samples that one lane reads, without end.

    Args:
        reader: The shards.
        lane: Number of the lane.
        cursor: Where the next sample is, as `cursor` of an earlier reader said; the first by
            default.
    """

    def __init__(self, reader: ShardReader, lane: int, cursor: Cursor = (0, 0)) -> None:
        self.reader, self.lane = reader, lane
        self.turn, self.offset = cursor
        self._pools = lru_cache(2)(self._open_pool)

    @property
    def cursor(self) -> Cursor:
        """Where the next sample is."""
        return self.turn, self.offset

    def skip_sample(self) -> None:
        """Pass over the next sample without reading it."""
        self.offset += 1
        if self.offset == self.reader.order.pool_size(self._pool_number(self.turn)):
            self.turn, self.offset = self.turn + 1, 0

    def __next__(self) -> tuple[str, dict[str, bytes], Location]:
        """Return key, files and shard of the next sample."""
        sample = self.read_at(self.cursor)
        self.skip_sample()
        return sample

    def read_at(self, cursor: Cursor) -> tuple[str, dict[str, bytes], Location]:
        """Return key, files and shard of the sample at a cursor of this lane."""
        turn, offset = cursor
        return self.reader.read_sample(self._pools(turn), offset)

    def _open_pool(self, turn: int) -> SamplePool:
        return self.reader.load_pool(self._pool_number(turn))

    def _pool_number(self, turn: int) -> int:
        return turn * self.reader.lanes + self.lane
