"""Arms beside the first of them: means over seeds, paired differences and their errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.outcome import Outcome, kind_of, metric_names, summarize
from lightning_omni.evaluation.paired import Difference, case_differences, mean_difference
from lightning_omni.evaluation.table import primary_of
from lightning_omni.studies.experiments.measured import Measured
from lightning_omni.studies.experiments.measurements import BOUND

Runs = Mapping[str, Mapping[int, Mapping[str, Measured]]]
"""What was measured, by arm, training seed and test."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one arm. Errors are standard errors; None where there can be none.

    Attributes:
        test: Task, or `bound`.
        metric: As the judges name it.
        arm: Name of the arm.
        is_lower_better: Whether a smaller number is the better one.
        by_seed: Its value with each training seed.
        mean: Over seeds.
        error: Of the mean, over seeds; None with one seed.
        low: Lower end of the 95 % interval over cases; None with several seeds.
        high: Upper end, likewise.
        n: Cases.
        difference: Mean over seeds of the difference to the first arm, paired by case and seed;
            None for the first arm.
        error_over_seeds: Of the difference: what training again would change.
        error_over_cases: Of the difference: what asking other cases would change.
        forwards: Forward passes per answer; None for the bound.
    """

    test: str
    metric: str
    arm: str
    is_lower_better: bool
    by_seed: dict[int, float]
    mean: float
    error: float | None
    low: float | None
    high: float | None
    n: int
    difference: float | None
    error_over_seeds: float | None
    error_over_cases: float | None
    forwards: float | None


def compare(runs: Runs, *, seed: int) -> list[Row]:
    """Rows of every test's main metrics, for each the arms in their order.

    Args:
        runs: All arms with the same seeds and tests; differences are to the first arm.
        seed: Of bootstrap intervals.

    Raises:
        OmniError: If an arm was asked other cases than the first, or none that a metric is for.
    """
    first = next(iter(runs))
    tests = next(iter(runs[first].values()))
    return [
        _row(runs, arm, test, metric, seed=seed)
        for test, measured in tests.items()
        for metric in _metrics(test, measured.outcomes)
        for arm in runs
    ]


def paired_over_seeds(
    ones: Sequence[Sequence[Outcome]], others: Sequence[Sequence[Outcome]], metric: str
) -> tuple[Difference, Difference]:
    """The mean difference of several pairs of models on the same cases, with both its errors.

    Args:
        ones: Outcomes of each seed.
        others: Outcomes of the same seeds in another way.
        metric: Name of the metric.

    Returns:
        With its error over seeds, from each seed's mean; and over cases, from each case's mean.
        Every seed is asked the same cases, so more seeds alone do not make the latter vanish.

    Raises:
        OmniError: If no case of a seed has the metric on both sides.
    """
    by_seed = [case_differences(a, b, metric) for a, b in zip(ones, others, strict=True)]
    of_seeds = [_there(row) for row in by_seed]
    if not all(of_seeds):
        raise OmniError(f"no case has '{metric}' on both sides; ask more cases")
    of_cases = [_there(column) for column in zip(*by_seed, strict=True)]
    return (
        mean_difference([statistics.fmean(row) for row in of_seeds]),
        mean_difference([statistics.fmean(column) for column in of_cases if column]),
    )


def _there(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _metrics(test: str, outcomes: Sequence[Outcome]) -> list[str]:
    return sorted(metric_names(outcomes)) if test == BOUND else [primary_of(test, outcomes)]


def _row(runs: Runs, arm: str, test: str, metric: str, *, seed: int) -> Row:
    first = next(iter(runs))
    own = {s: tests[test] for s, tests in runs[arm].items()}
    others = [tests[test] for tests in runs[first].values()]
    _check_cases(arm, first, test, list(own.values()), others)
    found = {s: summarize(m.outcomes, metric, seed=seed) for s, m in own.items()}
    estimates = {s: e for s, e in found.items() if e is not None}
    if len(estimates) < len(own):
        raise OmniError(f"arm '{arm}' has no case of {test} with '{metric}'; ask more cases")
    mean = mean_difference([e.value for e in estimates.values()])
    only = next(iter(estimates.values())) if len(estimates) == 1 else None
    over_seeds = over_cases = None
    if arm != first:
        over_seeds, over_cases = paired_over_seeds(
            [m.outcomes for m in own.values()], [m.outcomes for m in others], metric
        )
    forwards = [m.forwards for m in own.values() if m.forwards is not None]
    return Row(
        test=test,
        metric=metric,
        arm=arm,
        is_lower_better=kind_of(metric) == "error_rate",
        by_seed={s: e.value for s, e in estimates.items()},
        mean=mean.mean,
        error=_finite(mean.error),
        low=only.low if only else None,
        high=only.high if only else None,
        n=min(e.n for e in estimates.values()),
        difference=over_seeds.mean if over_seeds else None,
        error_over_seeds=_finite(over_seeds.error) if over_seeds else None,
        error_over_cases=_finite(over_cases.error) if over_cases else None,
        forwards=statistics.fmean(forwards) if forwards else None,
    )


def _check_cases(
    arm: str, first: str, test: str, own: Sequence[Measured], others: Sequence[Measured]
) -> None:
    if any(a.keys != b.keys for a, b in zip(own, others, strict=True)):
        raise OmniError(
            f"arm '{arm}' was asked other cases of {test} than arm '{first}'; train and measure "
            "both on the same data"
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
