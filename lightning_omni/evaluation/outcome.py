"""Per-sample outcomes and how they add up to a number with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_omni.evaluation.statistics import bootstrap_interval, wilson_interval

Kind = Literal["proportion", "error_rate"]
ERROR_RATES = frozenset(("wer", "cer", "nats_per_token"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one answer earned.

    `metrics` maps a name to (numerator, denominator): (1, 1) or (0, 1) for a proportion, (edits,
    reference words) for an error rate, (nats, tokens) for a bound. A metric that does not apply is
    absent. `failure` says why an answer could not be read; it has been counted as wrong in
    `metrics`.
    """

    metrics: dict[str, tuple[float, float]]
    failure: str | None = None
    output: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number over `n` samples with its 95 % interval; `n` is 0 where nothing was measured."""

    value: float
    low: float
    high: float
    n: int


def kind_of(metric: str) -> Kind:
    """Error rates are ratios of sums and better when low; all else are proportions."""
    return "error_rate" if metric.rpartition("/")[2] in ERROR_RATES else "proportion"


def metric_names(outcomes: Sequence[Outcome]) -> list[str]:
    """Every metric of any outcome, in the order of first sight."""
    return list(dict.fromkeys(name for outcome in outcomes for name in outcome.metrics))


def summarize(outcomes: Sequence[Outcome], metric: str, *, seed: int) -> Estimate | None:
    """Add up one metric; `None` if no outcome has it."""
    pairs = [o.metrics[metric] for o in outcomes if metric in o.metrics]
    if not pairs:
        return None
    tops, bottoms = [p[0] for p in pairs], [p[1] for p in pairs]
    total = sum(bottoms)
    if total == 0:
        return None
    if kind_of(metric) == "proportion":
        low, high = wilson_interval(sum(tops), len(pairs))
    else:
        low, high = bootstrap_interval(tops, bottoms, seed=seed)
    return Estimate(sum(tops) / total, low, high, len(pairs))


def proportions(verdict: dict[str, bool]) -> dict[str, tuple[float, float]]:
    """Turn verdicts into metrics."""
    return {name: (float(is_right), 1.0) for name, is_right in verdict.items()}
