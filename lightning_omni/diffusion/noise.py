"""Random numbers that are a function of (seed, sample index, position) alone.

A sample index has the same time and the same mask whatever the number of workers, the world size,
the packing or the step at which a run was resumed.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
SILVER_RATIO = 0.41421356237309503
_MULTIPLES = 256


def uniform(
    seed: int, sample_index: Int[Tensor, "*shape"], position: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Hash each (seed, sample index, position) to a float64 in [0, 1).

    Source: the SplitMix64 finaliser, doi:10.1145/2714064.2660195; int64 arithmetic wraps as needed.
    """
    mixed = _mix_bits(
        _mix_bits(sample_index + seed * _MIX_2 % (1 << 63)) + (position + 1) * _GOLDEN
    )
    return ((mixed >> 11) & ((1 << 53) - 1)).double() / float(1 << 53)


def sample_t(seed: int, sample_index: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return one time per segment, spread evenly over any run of consecutive sample indices.

    Sample indices count over all ranks, so times are low-discrepancy over the global batch without
    communication: t is the index times the silver ratio, offset by the seed. A rank of eight sees
    every eighth index, and ranks drift apart as they pack; eight times the golden ratio is almost
    an integer, so with it each rank's times would cluster.
    """
    start = uniform(seed, torch.zeros_like(sample_index), torch.full_like(sample_index, -7))
    return (start + sample_index.double() * SILVER_RATIO).frac().float()


@lru_cache
def spread_stride(lanes: int) -> int:
    """Return a stride of at least `lanes` whose multiples give times that are spread evenly.

    Sample n of lane l has the index n * stride + l, so that every lane has indices of its own. Of
    the strides below twice the lanes, that one is taken whose multiples of the silver ratio come
    least close to whole numbers, which would let the times of one lane's samples cluster.
    """

    def least_distance(stride: int) -> float:
        turns = (k * stride * SILVER_RATIO for k in range(1, _MULTIPLES))
        return min(k * abs(turn - round(turn)) for k, turn in enumerate(turns, 1))

    return max(range(lanes, 2 * lanes), key=least_distance)


def complementary_index(sample_index: int) -> int:
    """Return the index whose mask is the complement of another's; it is negative."""
    return -1 - sample_index


def split_complementary(
    sample_index: Int[Tensor, " N"],
) -> tuple[Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """Return the indices whose noise is drawn, and where its complement is used."""
    is_complementary = sample_index < 0
    return torch.where(is_complementary, -1 - sample_index, sample_index), is_complementary


def _mix_bits(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch shifts int64 arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
