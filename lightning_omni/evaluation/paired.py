"""Differences on the same cases: what two sets of answers share cancels out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_omni.evaluation.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a paired difference and its standard error; NaN where there is one value only."""

    mean: float
    error: float


def paired_difference(
    outcomes: Sequence[Outcome], others: Sequence[Outcome], metric: str
) -> Difference:
    """How much larger a metric is than on the same cases in another way.

    Cases that the metric does not apply to are left out.
    """
    found = case_differences(outcomes, others, metric)
    return mean_difference([d for d in found if d is not None])


def case_differences(
    outcomes: Sequence[Outcome], others: Sequence[Outcome], metric: str
) -> list[float | None]:
    """The difference of each case, None where the metric does not apply; their mean is the whole.

    An error rate is a ratio of sums, so a case counts by its errors over the mean length.
    """
    pairs = [
        (a.metrics[metric], b.metrics[metric])
        if metric in a.metrics and metric in b.metrics
        else None
        for a, b in zip(outcomes, others, strict=True)
    ]
    have = [pair for pair in pairs if pair is not None]
    if not have:
        return [None] * len(pairs)
    length = statistics.fmean(bottom for (_, bottom), _ in have)
    other_length = statistics.fmean(bottom for _, (_, bottom) in have)
    return [
        None if pair is None else pair[0][0] / length - pair[1][0] / other_length for pair in pairs
    ]


def mean_difference(differences: Sequence[float]) -> Difference:
    """The mean of independent differences, of which there is at least one."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Difference(mean, float("nan"))
    return Difference(mean, statistics.stdev(differences) / len(differences) ** 0.5)
