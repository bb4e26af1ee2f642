"""Rows of results: every number with its interval, random baseline and upper bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any

from lightning_omni.evaluation.emojiworld.metadata import question_kind
from lightning_omni.evaluation.examples import Example
from lightning_omni.evaluation.random_baseline import baseline_rule
from lightning_omni.evaluation.statistics import (
    Estimate,
    Score,
    is_error_rate,
    metric_names,
    metric_value,
    summarize_metric,
)
from lightning_omni.tasks import scoring_of_task

_FILE_KEYS = {
    "group": "slice",
    "random_baseline": "chance",
    "codec_reconstruction": "reconstruction",
    "ground_truth": "ceiling",
    "baseline_rule": "chance_rule",
    "upper_bound_rule": "ceiling_rule",
}
"""Attribute of `ResultRow`: its key in `results.json`, so that earlier results stay valid."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One number and its comparisons on the same examples.

    Attributes:
        task: Name of the task.
        split: Name of the split.
        metric: Name of the metric.
        group: Group of examples in a metric breakdown; None for all examples.
        is_primary: Whether this is the task's primary metric on all examples.
        is_lower_better: Whether smaller values are better.
        value: Value of the model.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        n: Number of examples.
        random_baseline: Value of the random baseline; None if there is none.
        ground_truth: Value of the references, an upper bound; None if there is none.
        codec_reconstruction: Value of the references after encoding and decoding by the
            tokenizers; None for text.
        failures: Number of responses that could not be parsed; they count as wrong.
        unfinished: Number of responses without an end token.
        verdict: Position of the interval relative to random baseline and ground truth, in words.
        interval: Kind of the interval.
        baseline_rule: How the random baseline is made.
        upper_bound_rule: How the ground truth is scored.
    """

    task: str
    split: str
    metric: str
    group: str | None
    is_primary: bool
    is_lower_better: bool
    value: float
    low: float
    high: float
    n: int
    random_baseline: float | None
    ground_truth: float | None
    codec_reconstruction: float | None
    failures: int
    unfinished: int
    verdict: str
    interval: str
    baseline_rule: str
    upper_bound_rule: str

    def to_json(self) -> dict[str, Any]:
        """Return the row with the keys of `results.json`."""
        return {_FILE_KEYS.get(name, name): value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Scores of the same examples by several predictors.

    Attributes:
        task: Name of the task.
        split: Name of the split.
        examples: Examples, in the order of all scores.
        model: Scores of the model.
        ground_truth: Scores of the references.
        codec_reconstruction: Scores of the decoded codes of the references; empty for text.
        random_baseline: Scores of each draw of the random baseline.
    """

    task: str
    split: str
    examples: Sequence[Example]
    model: Sequence[Score]
    ground_truth: Sequence[Score]
    codec_reconstruction: Sequence[Score] = ()
    random_baseline: Sequence[Sequence[Score]] = ()


def build_rows(scores: TaskScores, *, seed: int) -> list[ResultRow]:
    """Return a row per metric, then the primary metric by group of examples.

    Args:
        scores: Scores of one task and split.
        seed: Seed of bootstrap intervals.
    """
    primary = primary_metric(scores.task, scores.model)
    rows = [
        _build_row(scores, name, None, name == primary, seed=seed)
        for name in metric_names(scores.model)
    ]
    groups = [breakdown_group(scores.task, example) for example in scores.examples]
    if len(set(groups)) > 1:
        rows += [
            _build_row(_select_group(scores, groups, group), primary, group, False, seed=seed)
            for group in sorted(set(groups))
        ]
    return [row for row in rows if row is not None]


def primary_metric(task: str, scores: Sequence[Score]) -> str:
    """Return the task's primary metric, or exact match where it applies to no example."""
    primary = scoring_of_task(task).metric
    return primary if primary in metric_names(scores) else "exact"


def breakdown_group(task: str, example: Example) -> str:
    """Return the group of an example in the metric breakdown: question, scene or voice."""
    meta, breakdown = example.meta, scoring_of_task(task).breakdown
    if breakdown == "voice":
        return f"voice {meta.get('voice', 'unknown')}"
    if breakdown == "scene":
        return str(meta.get("family") or meta.get("set") or "all")
    return question_kind(example.sample)


def describe_verdict(
    estimate: Estimate, *, random_baseline: float | None, ground_truth: float | None, metric: str
) -> str:
    """Describe where an interval lies relative to the random baseline and the ground truth."""
    sign = -1 if is_error_rate(metric) else 1
    worst, best = sorted((sign * estimate.low, sign * estimate.high))
    if random_baseline is not None and worst <= sign * random_baseline <= best:
        return "not distinguishable from chance"
    if random_baseline is not None and best < sign * random_baseline:
        return "worse than chance"
    if ground_truth is not None and best >= sign * ground_truth:
        return "at the ceiling"
    return "better than chance" if random_baseline is not None else "measured"


def results_table(rows: Sequence[ResultRow], *, notes: Sequence[str] = ()) -> str:
    """Return rows as a Markdown table.

    Args:
        rows: Rows in the order of the table.
        notes: Sentences to put below the table.
    """
    lines = [
        "| task | split | metric | value | 95 % interval | n | failures | random baseline | "
        "codec reconstruction | ground truth | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        metric = f"**{r.metric}**" if r.is_primary else r.metric
        metric += f" ({r.group})" if r.group else ""
        metric += " ↓" if r.is_lower_better else ""
        lines.append(
            f"| {r.task} | {r.split} | {metric} | {r.value:.3f} | {r.low:.3f} – {r.high:.3f} | "
            f"{r.n} | {r.failures} | {_format_number(r.random_baseline)} | "
            f"{_format_number(r.codec_reconstruction)} | {_format_number(r.ground_truth)} | "
            f"{r.verdict} |"
        )
    for note in notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _build_row(
    scores: TaskScores, metric: str, group: str | None, is_primary: bool, *, seed: int
) -> ResultRow | None:
    estimate = summarize_metric(scores.model, metric, seed=seed)
    if estimate is None:
        return None
    draws = [metric_value(draw, metric) for draw in scores.random_baseline]
    guessed = [value for value in draws if value is not None]
    random_baseline = sum(guessed) / len(guessed) if guessed else None
    ground_truth = metric_value(scores.ground_truth, metric)
    is_rate = is_error_rate(metric)
    return ResultRow(
        task=scores.task,
        split=scores.split,
        metric=metric,
        group=group,
        is_primary=is_primary,
        is_lower_better=is_rate,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        random_baseline=random_baseline,
        ground_truth=ground_truth,
        codec_reconstruction=metric_value(scores.codec_reconstruction, metric),
        failures=sum(s.failure is not None for s in scores.model if metric in s.metrics),
        unfinished=sum("unfinished" in s.output for s in scores.model if metric in s.metrics),
        verdict=describe_verdict(
            estimate, random_baseline=random_baseline, ground_truth=ground_truth, metric=metric
        ),
        interval="bootstrap over utterances" if is_rate else "Wilson",
        baseline_rule=baseline_rule(scores.task),
        upper_bound_rule=scoring_of_task(scores.task).upper_bound,
    )


def _select_group(scores: TaskScores, groups: Sequence[str], group: str) -> TaskScores:
    """Return the scores of the examples of one group."""
    is_kept = [other == group for other in groups]
    return replace(
        scores,
        examples=list(compress(scores.examples, is_kept)),
        model=list(compress(scores.model, is_kept)),
        ground_truth=list(compress(scores.ground_truth, is_kept)),
        codec_reconstruction=list(compress(scores.codec_reconstruction, is_kept)),
        random_baseline=[list(compress(draw, is_kept)) for draw in scores.random_baseline],
    )


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
