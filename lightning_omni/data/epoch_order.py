"""The order of an endless stream of shards' samples: a function of seed and epoch, cut in pools.

Each shard is cut in `pieces` equal parts. An epoch goes over the shards in rounds, in each of which
every shard gives one of its pieces; order of shards and pieces are drawn anew for each epoch. This
line of samples is cut in pools of equal size, each of which touches about `PIECES_PER_POOL` pieces,
so that samples of several shards are mixed where a pool is permuted. Pools are numbered over all
epochs; a lane reads every `lanes`-th of them.

The fixed number of lanes follows the canonical nodes of MosaicML Streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random

import numpy as np
from jaxtyping import Int64

PIECES_PER_POOL = 16
_EPOCHS_KEPT = 4


@dataclass(frozen=True, slots=True)
class SampleRange:
    """Samples `[start, stop)` of a shard, by index in it."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Line:
    """The pieces of an epoch in order, and the number of samples before each, Int64[P + 1]."""

    pieces: tuple[SampleRange, ...]
    before: Int64[np.ndarray, " P"]


class EpochOrder:
    """Pools of samples without end.

    Args:
        sizes: Number of samples of each shard; at least one shard has one.
        lanes: Number of lanes that share the pools.
        seed: Seed of the order.
    """

    def __init__(self, sizes: Sequence[int], *, lanes: int, seed: str) -> None:
        self.sizes, self.seed = tuple(sizes), seed
        self.num_samples = sum(sizes)
        wanted = lanes * max(1, len(sizes) // (lanes * PIECES_PER_POOL))
        self.pools_per_epoch = min(wanted, self.num_samples)
        self.pieces = max(1, min(-(-wanted * PIECES_PER_POOL // len(sizes)), max(sizes)))
        self._line = lru_cache(_EPOCHS_KEPT)(self._draw_line)

    def ranges(self, pool: int) -> list[SampleRange]:
        """Return the samples of a pool, before they are permuted."""
        start, stop = self._interval(pool)
        line = self._line(pool // self.pools_per_epoch)
        first = int(np.searchsorted(line.before, start, side="right")) - 1
        found = []
        for piece, before in zip(line.pieces[first:], line.before[first:].tolist(), strict=False):
            if before >= stop:
                break
            left, right = max(start - before, 0), min(stop - before, piece.stop - piece.start)
            if left < right:
                found.append(SampleRange(piece.shard, piece.start + left, piece.start + right))
        return found

    def pool_size(self, pool: int) -> int:
        """Return the number of samples of a pool."""
        start, stop = self._interval(pool)
        return stop - start

    def permutation(self, pool: int, size: int) -> list[int]:
        """Return the order in which the samples of a pool are read."""
        order = list(range(size))
        Random(f"{self.seed}-pool-{pool}").shuffle(order)
        return order

    def _interval(self, pool: int) -> tuple[int, int]:
        """Return where a pool begins and ends in the line of its epoch."""
        number = pool % self.pools_per_epoch
        start, stop = (i * self.num_samples // self.pools_per_epoch for i in (number, number + 1))
        return start, stop

    def _draw_line(self, epoch: int) -> _Line:
        rng = Random(f"{self.seed}-epoch-{epoch}")
        shards = list(range(len(self.sizes)))
        turns = [rng.sample(range(self.pieces), self.pieces) for _ in shards]
        pieces = []
        for turn in range(self.pieces):
            rng.shuffle(shards)
            for shard in shards:
                start, stop = (
                    (turns[shard][turn] + i) * self.sizes[shard] // self.pieces for i in (0, 1)
                )
                if start < stop:
                    pieces.append(SampleRange(shard, start, stop))
        before = accumulate((p.stop - p.start for p in pieces), initial=0)
        return _Line(tuple(pieces), np.array(list(before)[:-1], dtype=np.int64))
