"""Scores of single examples and their statistics: sums, 95 % intervals, paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_omni.errors import OmniError

ERROR_RATES = frozenset(("wer", "cer", "nelbo_per_token", "nats_per_token"))
"""Metrics that are ratios of sums and better when low; `nats_per_token` stands in older files."""
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Score:
    """Metrics of one prediction.

    Attributes:
        metrics: (numerator, denominator) by metric: (1, 1) or (0, 1) for a proportion, (edits,
            reference words) for an error rate, (nats, tokens) for a NELBO. A metric that does
            not apply to the example is absent.
        failure: Why the response could not be parsed, or None; `metrics` already count it as wrong.
        output: Parsed prediction as plain data, for the records of a run.
    """

    metrics: dict[str, tuple[float, float]]
    failure: str | None = None
    output: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number over `n` examples with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a paired difference and its standard error, which is NaN for a single pair."""

    mean: float
    error: float


def is_error_rate(metric: str) -> bool:
    """Tell error rates (ratios of sums, lower is better) from proportions (higher is better)."""
    return metric.rpartition("/")[2] in ERROR_RATES


def metric_names(scores: Sequence[Score]) -> list[str]:
    """Return the metrics of all scores, in order of first appearance."""
    return list(dict.fromkeys(name for score in scores for name in score.metrics))


def metrics_of_verdicts(verdicts: dict[str, bool]) -> dict[str, tuple[float, float]]:
    """Return metrics of one example from its verdicts."""
    return {name: (float(is_right), 1.0) for name, is_right in verdicts.items()}


def metric_value(scores: Sequence[Score], metric: str) -> float | None:
    """Return sum of numerators over sum of denominators; None if the metric applies nowhere."""
    tops, bottoms = _numerators_and_denominators(scores, metric)
    return sum(tops) / sum(bottoms) if sum(bottoms) else None


def summarize_metric(scores: Sequence[Score], metric: str, *, seed: int) -> Estimate | None:
    """Return the value of a metric with its 95 % interval.

    Args:
        scores: One score per example.
        metric: Name of the metric.
        seed: Seed of the bootstrap interval of an error rate.

    Returns:
        The estimate; None if the metric applies to no example.
    """
    tops, bottoms = _numerators_and_denominators(scores, metric)
    if not sum(bottoms):
        return None
    if is_error_rate(metric):
        return ratio_of_sums(tops, bottoms, seed=seed)
    low, high = wilson_interval(sum(tops), len(tops))
    return Estimate(sum(tops) / sum(bottoms), low, high, len(tops))


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion.

    Unlike the normal interval it stays in [0, 1] and has a width at 0 and at 1.

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
    """Return the 95 % interval of sum(numerators) / sum(denominators), resampling utterances.

    Errors of the words of one utterance are correlated, so whole utterances are resampled.

    Source: Bisani and Ney, 2004, "Bootstrap estimates for confidence intervals in ASR".
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if len(top) == 0 or bottom.sum() == 0:
        return 0.0, math.inf
    picks = np.random.default_rng(seed).integers(0, len(top), size=(draws, len(top)))
    sums = bottom[picks].sum(axis=1)
    ratios = top[picks].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def ratio_of_sums(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int
) -> Estimate:
    """Return sum(numerators) / sum(denominators), such as a word error rate, with its interval."""
    low, high = bootstrap_interval(numerators, denominators, seed=seed)
    return Estimate(sum(numerators) / sum(denominators), low, high, len(numerators))


def mean_of_values(values: Sequence[float], *, seed: int) -> Estimate:
    """Return the mean of one value per example, with its bootstrap interval."""
    low, high = bootstrap_interval(values, [1.0] * len(values), seed=seed)
    return Estimate(float(np.mean(values)), low, high, len(values))


def bootstrap_difference(
    first: Sequence[float], second: Sequence[float], denominators: Sequence[float], *, seed: int
) -> Estimate:
    """Return (sum(first) - sum(second)) / sum(denominators) with the interval of paired values.

    Errors that both share cancel out, so the interval is narrower than those of two numbers.
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    low, high = bootstrap_interval(differences.tolist(), denominators, seed=seed)
    return Estimate(float(differences.sum() / sum(denominators)), low, high, len(denominators))


def paired_difference(scores: Sequence[Score], others: Sequence[Score], metric: str) -> Difference:
    """Return the metric of `scores` minus that of `others` on the same examples.

    Examples to which the metric does not apply are left out.
    """
    found = example_differences(scores, others, metric)
    return mean_difference([d for d in found if d is not None])


def example_differences(
    scores: Sequence[Score], others: Sequence[Score], metric: str
) -> list[float | None]:
    """Return the difference on each example, None where the metric does not apply.

    Their mean is the difference of the two numbers. An error rate is a ratio of sums, so an
    example contributes its errors over the mean reference length.
    """
    pairs = [
        (a.metrics[metric], b.metrics[metric])
        if metric in a.metrics and metric in b.metrics
        else None
        for a, b in zip(scores, others, strict=True)
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
    """Return mean and standard error of independent differences, of which there is at least one."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Difference(mean, float("nan"))
    return Difference(mean, statistics.stdev(differences) / len(differences) ** 0.5)


def _numerators_and_denominators(
    scores: Sequence[Score], metric: str
) -> tuple[list[float], list[float]]:
    pairs = [s.metrics[metric] for s in scores if metric in s.metrics]
    return [top for top, _ in pairs], [bottom for _, bottom in pairs]


def paired_difference_over_seeds(
    ones: Sequence[Sequence[Score]], others: Sequence[Sequence[Score]], metric: str
) -> tuple[Difference, Difference]:
    """Return the mean paired difference of several pairs of models, with two standard errors.

    Args:
        ones: Scores by seed and example.
        others: Scores of the other variant on the same seeds and examples.
        metric: Metric name.

    Returns:
        The difference with its error over seeds, from each seed's mean; and with its error over
        examples, from each example's mean. Every seed uses the same examples, so more seeds alone
        do not make the latter vanish.

    Raises:
        OmniError: If no example of a seed has the metric on both sides.
    """
    by_seed = [example_differences(a, b, metric) for a, b in zip(ones, others, strict=True)]
    of_seeds = [_drop_none(row) for row in by_seed]
    if not all(of_seeds):
        raise OmniError(f"no example has '{metric}' on both sides; use more examples")
    of_examples = [_drop_none(column) for column in zip(*by_seed, strict=True)]
    return (
        mean_difference([statistics.fmean(row) for row in of_seeds]),
        mean_difference([statistics.fmean(column) for column in of_examples if column]),
    )


def _drop_none(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
