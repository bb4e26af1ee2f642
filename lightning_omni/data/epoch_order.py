"""The order of an endless stream of shards' samples: a function of seed and epoch, cut in pools.

Each shard is cut in `pieces` equal parts. An epoch goes over the shards in rounds, in each of which
every shard gives one of its pieces; order of shards and pieces are drawn anew for each epoch. This
line of samples is cut in pools of equal size, of at most about `SAMPLES_PER_POOL` samples and
`PIECES_PER_POOL` pieces; a pool's samples are permuted, which mixes several shards. Pools are
numbered over all epochs; a lane reads every `lanes`-th of them.

The fixed number of lanes follows the canonical nodes of MosaicML Streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from jaxtyping import Int64

PIECES_PER_POOL = 16
SAMPLES_PER_POOL = 1024
_EPOCHS_KEPT = 3


@dataclass(frozen=True, slots=True)
class SampleRange:
    """Samples `[start, stop)` of a shard, by index in it."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The pieces of an epoch in order.

    Attributes:
        shards: Shard of each piece, Int64[P].
        starts: First sample of each piece in its shard, Int64[P].
        before: Number of samples in earlier pieces, and in all, Int64[P + 1].
    """

    shards: Int64[np.ndarray, " P"]
    starts: Int64[np.ndarray, " P"]
    before: Int64[np.ndarray, " Q"]


class EpochOrder:
    """Pools of samples without end.

    Args:
        sizes: Number of samples of each shard; at least one shard has one.
        lanes: Number of lanes that share the pools.
        seed: Seed of the order.
    """

    def __init__(self, sizes: Sequence[int], *, lanes: int, seed: str) -> None:
        self.sizes, self.seed = np.array(sizes, dtype=np.int64), seed
        self.num_samples = sum(sizes)
        wanted = lanes * max(1, -(-self.num_samples // (lanes * SAMPLES_PER_POOL)))
        self.pools_per_epoch = min(wanted, self.num_samples)
        self.pieces = max(1, min(-(-wanted * PIECES_PER_POOL // len(sizes)), max(sizes)))
        self._line = lru_cache(_EPOCHS_KEPT)(self._draw_epoch)

    def sample_ranges(self, pool: int) -> list[SampleRange]:
        """Return the samples of a pool, before they are permuted."""
        start, stop = self._pool_interval(pool)
        line = self._line(pool // self.pools_per_epoch)
        first, last = np.searchsorted(line.before, [start, stop - 1], side="right") - 1
        found = []
        for piece in range(int(first), int(last) + 1):
            shard, offset, before = (
                int(column[piece]) for column in (line.shards, line.starts, line.before)
            )
            left, right = max(start, before), min(stop, int(line.before[piece + 1]))
            found.append(SampleRange(shard, offset + left - before, offset + right - before))
        return found

    def pool_size(self, pool: int) -> int:
        """Return the number of samples of a pool."""
        start, stop = self._pool_interval(pool)
        return stop - start

    def permutation(self, pool: int, size: int) -> list[int]:
        """Return the order in which the samples of a pool are read."""
        order = list(range(size))
        Random(f"{self.seed}-pool-{pool}").shuffle(order)
        return order

    def _pool_interval(self, pool: int) -> tuple[int, int]:
        """Return where a pool begins and ends in the line of its epoch."""
        number = pool % self.pools_per_epoch
        start, stop = (i * self.num_samples // self.pools_per_epoch for i in (number, number + 1))
        return start, stop

    def _draw_epoch(self, epoch: int) -> _Epoch:
        rng = Random(f"{self.seed}-epoch-{epoch}")
        order = list(range(len(self.sizes)))
        turns = np.array([rng.sample(range(self.pieces), self.pieces) for _ in order])
        rounds = []
        for _ in range(self.pieces):
            rng.shuffle(order)
            rounds.append(list(order))
        shards = np.array(rounds)
        pieces = np.take_along_axis(turns.T, shards, axis=1).ravel()
        shards = shards.ravel()
        starts, stops = ((pieces + i) * self.sizes[shards] // self.pieces for i in (0, 1))
        is_filled = starts < stops
        shards, starts, stops = shards[is_filled], starts[is_filled], stops[is_filled]
        return _Epoch(shards, starts, np.insert(np.cumsum(stops - starts), 0, 0))
