"""How sure a number is: 95 % intervals for proportions and for ratios of sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Measured:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """Bound a proportion; unlike the normal interval it stays in [0, 1] and is not empty at 0.

    Source: Wilson, 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    spread = _Z**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def bootstrap_interval(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int, draws: int = 2000
) -> tuple[float, float]:
    """Bound sum(numerators) / sum(denominators), resampling whole utterances.

    Words of one utterance err together, so words must not be resampled alone.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if len(top) == 0 or bottom.sum() == 0:
        return 0.0, math.inf
    picks = np.random.default_rng(seed).integers(0, len(top), size=(draws, len(top)))
    sums = bottom[picks].sum(axis=1)
    ratios = top[picks].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_difference(
    first: Sequence[float],
    second: Sequence[float],
    denominators: Sequence[float],
    *,
    seed: int,
    draws: int = 2000,
) -> Measured:
    """(sum(first) - sum(second)) / sum(denominators): paired, so what both share cancels out."""
    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    low, high = bootstrap_interval(gaps.tolist(), denominators, seed=seed, draws=draws)
    return Measured(float(gaps.sum() / sum(denominators)), low, high)


def mean_over(values: Sequence[float], *, seed: int) -> Measured:
    """Mean of per-item values, items resampled."""
    low, high = bootstrap_interval(values, [1.0] * len(values), seed=seed)
    return Measured(float(np.mean(values)), low, high)
