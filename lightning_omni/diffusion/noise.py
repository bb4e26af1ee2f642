"""Random numbers that are a function of (seed, visit, position), not of who draws them when.

The same visit of a sample gets the same time and the same mask whatever the number of workers, the
world size, the packing or the point of resumption.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
SILVER_RATIO = 0.41421356237309503


def uniform(
    seed: int, visit: Int[Tensor, "*shape"], position: Int[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Hash each (seed, visit, position) to a float64 in [0, 1).

    Source: the SplitMix64 finaliser, doi:10.1145/2714064.2660195; int64 arithmetic wraps as needed.
    """
    mixed = _mix(_mix(visit + seed * _MIX_2 % (1 << 63)) + (position + 1) * _GOLDEN)
    return ((mixed >> 11) & ((1 << 53) - 1)).double() / float(1 << 53)


def sample_t(seed: int, visit: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """One time per segment, spread evenly over any run of consecutive visits.

    Visits count samples over all ranks, so times are low-discrepancy over the global batch with no
    communication: t is the multiple of the silver ratio by the visit's number, started by the seed.
    Ranks see every 8th visit, say, and drift apart as they pack; 8 times the golden ratio is almost
    whole, so that each rank's times would lie together.
    """
    start = uniform(seed, torch.zeros_like(visit), torch.full_like(visit, -7))
    return (start + visit.double() * SILVER_RATIO).frac().float()


def complement_of(visit: int) -> int:
    """Number of the visit that masks what this one shows, and shows what this one masks."""
    return -1 - visit


def split_visits(visits: Int[Tensor, " N"]) -> tuple[Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """The visits whose noise is taken, and where its complement is."""
    is_complement = visits < 0
    return torch.where(is_complement, -1 - visits, visits), is_complement


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch shifts int64 arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
