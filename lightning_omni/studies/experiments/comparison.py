"""Compare variants with the first one, and show the differences as a table and a figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.statistics import (
    Score,
    is_error_rate,
    mean_difference,
    metric_names,
    paired_difference_over_seeds,
    summarize_metric,
)
from lightning_omni.evaluation.table import primary_metric
from lightning_omni.figures import BLUE, ORANGE, import_pyplot, save_figure
from lightning_omni.studies.experiments.measurements import NELBO, Measurement

Runs = Mapping[str, Mapping[int, Mapping[str, Measurement]]]
"""Measurements by variant, training seed and test."""
_EXPLANATION = (
    "Each value is the mean over training seeds; ± is its standard error over seeds or, with one "
    "seed, brackets hold its 95 % interval over examples. n is the number of examples, the same "
    "for every variant and seed. The difference is to the first variant, paired by example and "
    "seed, with two standard errors: over seeds (what another training would change; none with one "
    "seed) and over examples (what other examples would change). Trust a difference that is large "
    "against both. ↓: lower is better."
)
_COLUMNS = 4
_OFFSET = 0.12  # between the two error bars of a point


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One metric of one variant. Errors are standard errors, None where undefined.

    Attributes:
        test: Task, or `nelbo`.
        metric: Metric name.
        variant: Variant name.
        is_lower_better: Whether the metric is an error rate.
        by_seed: Value with each training seed.
        mean: Mean over seeds.
        error: Error of the mean over seeds; None with one seed.
        low: Lower end of the 95 % interval over examples; None with several seeds.
        high: Upper end of the same interval.
        n: Number of examples.
        difference: Mean difference to the first variant, paired by example and seed; None for the
            first variant.
        error_over_seeds: Error of the difference over seeds.
        error_over_examples: Error of the difference over examples.
        forwards: Forward passes per answer; None for the NELBO.
    """

    test: str
    metric: str
    variant: str
    is_lower_better: bool
    by_seed: dict[int, float]
    mean: float
    error: float | None
    low: float | None
    high: float | None
    n: int
    difference: float | None
    error_over_seeds: float | None
    error_over_examples: float | None
    forwards: float | None


def compare_variants(runs: Runs, *, seed: int) -> list[ComparisonRow]:
    """Return one row per test, metric and variant; differences are to the first variant.

    Args:
        runs: Measurements; all variants have the same seeds and tests.
        seed: Seed of the bootstrap intervals.

    Raises:
        OmniError: If a variant has other examples than the first, or none with a metric.
    """
    first = next(iter(runs))
    tests = next(iter(runs[first].values()))
    return [
        _compare_variant(runs, variant, test, metric, seed=seed)
        for test, measurement in tests.items()
        for metric in _metric_names(test, measurement.scores)
        for variant in runs
    ]


def comparison_table(
    name: str, claim: str, rows: Sequence[ComparisonRow], *, seeds: Sequence[int]
) -> str:
    """Return an experiment as Markdown: its claim, the columns explained, and one line per row."""
    lines = [
        f"# {name}",
        "",
        f"Claim: {claim}",
        "",
        f"Seeds: {', '.join(map(str, seeds))}. {_EXPLANATION}",
        "",
        "| test | metric | variant | mean | spread | n | difference | s.e. over seeds | "
        "s.e. over examples | forward passes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        metric = row.metric + (" ↓" if row.is_lower_better else "")
        lines.append(
            f"| {row.test} | {metric} | {row.variant} | {row.mean:.3f} | {_format_spread(row)} | "
            f"{row.n} | {_format_number(row.difference, '+.3f')} | "
            f"{_format_number(row.error_over_seeds)} | "
            f"{_format_number(row.error_over_examples)} | {_format_number(row.forwards, '.1f')} |"
        )
    return "\n".join(lines) + "\n"


def draw_differences(rows: Sequence[ComparisonRow], path: Path) -> None:
    """Draw the differences to the first variant, one panel per metric.

    Error bars are one standard error: over seeds, if there are several, and over examples.

    Args:
        rows: Rows from `compare_variants`.
        path: Image file to write.
    """
    plt = import_pyplot()
    panels = dict.fromkeys((row.test, row.metric) for row in rows)
    variants = list(dict.fromkeys(row.variant for row in rows))
    columns = min(_COLUMNS, len(panels))
    height = -(-len(panels) // columns)
    size = (1.2 + 2.6 * columns, height * (1.1 + 0.35 * len(variants)))
    figure, grid = plt.subplots(height, columns, figsize=size, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    drawn = list(zip(grid.flat, panels, strict=False))
    for axes, panel in drawn:
        _draw_panel(axes, [row for row in rows if (row.test, row.metric) == panel])
        axes.set_yticks(range(len(variants)), variants, fontsize=8)
        axes.set_ylim(len(variants) - 0.5, -0.5)
    drawn[0][0].legend(fontsize=6)
    save_figure(figure, [axes for axes, _ in drawn], path)


def _metric_names(test: str, scores: Sequence[Score]) -> list[str]:
    return sorted(metric_names(scores)) if test == NELBO else [primary_metric(test, scores)]


def _compare_variant(
    runs: Runs, variant: str, test: str, metric: str, *, seed: int
) -> ComparisonRow:
    first = next(iter(runs))
    own = {s: tests[test] for s, tests in runs[variant].items()}
    others = [tests[test] for tests in runs[first].values()]
    _check_same_examples(variant, first, test, list(own.values()), others)
    found = {s: summarize_metric(m.scores, metric, seed=seed) for s, m in own.items()}
    estimates = {s: e for s, e in found.items() if e is not None}
    if len(estimates) < len(own):
        raise OmniError(
            f"variant '{variant}' has no example of {test} with '{metric}'; use more examples"
        )
    mean = mean_difference([e.value for e in estimates.values()])
    only = next(iter(estimates.values())) if len(estimates) == 1 else None
    over_seeds = over_examples = None
    if variant != first:
        over_seeds, over_examples = paired_difference_over_seeds(
            [m.scores for m in own.values()], [m.scores for m in others], metric
        )
    forwards = [m.forwards for m in own.values() if m.forwards is not None]
    return ComparisonRow(
        test=test,
        metric=metric,
        variant=variant,
        is_lower_better=is_error_rate(metric),
        by_seed={s: e.value for s, e in estimates.items()},
        mean=mean.mean,
        error=_finite_or_none(mean.error),
        low=only.low if only else None,
        high=only.high if only else None,
        n=min(e.n for e in estimates.values()),
        difference=over_seeds.mean if over_seeds else None,
        error_over_seeds=_finite_or_none(over_seeds.error) if over_seeds else None,
        error_over_examples=_finite_or_none(over_examples.error) if over_examples else None,
        forwards=statistics.fmean(forwards) if forwards else None,
    )


def _check_same_examples(
    variant: str,
    first: str,
    test: str,
    own: Sequence[Measurement],
    others: Sequence[Measurement],
) -> None:
    if any(a.keys != b.keys for a, b in zip(own, others, strict=True)):
        raise OmniError(
            f"variant '{variant}' has other examples of {test} than variant '{first}'; train and "
            "measure both on the same data"
        )


def _draw_panel(axes: Any, rows: Sequence[ComparisonRow]) -> None:
    """Draw one metric, variants from top to bottom."""
    axes.axvline(0, color="black", linewidth=0.8)
    axes.plot(0, 0, "o", color="black")
    first, *others = rows
    bars = (
        (BLUE, -_OFFSET, "seeds", [row.error_over_seeds for row in others]),
        (ORANGE, _OFFSET, "examples", [row.error_over_examples for row in others]),
    )
    for color, offset, over, errors in bars:
        if over == "seeds" and None in errors:
            continue  # a single seed
        axes.errorbar(
            [row.difference for row in others],
            [height + offset for height in range(1, len(rows))],
            xerr=[error or 0 for error in errors],
            fmt="o",
            markersize=4,
            capsize=3,
            color=color,
            label=f"± s.e. over {over}",
        )
    arrow = " ↓" if first.is_lower_better else ""
    axes.set_xlabel(f"difference to {first.variant}{arrow}", size=8)
    axes.locator_params(axis="x", nbins=5)  # more labels would overlap
    axes.set_title(f"{first.test}: {first.metric}, n = {first.n}", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)


def _format_spread(row: ComparisonRow) -> str:
    if row.error is not None:
        return f"± {row.error:.3f}"
    return f"[{_format_number(row.low)}, {_format_number(row.high)}]"


def _format_number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
