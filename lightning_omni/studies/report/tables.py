"""Tables of results: one primary metric per task, by split, and every row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from lightning_omni.studies.report.intervals import draw_interval
from lightning_omni.tasks import TASKS
from lightning_omni.types import SPLITS

TASK_TITLES = {task.name: task.title.capitalize() for task in TASKS if task.scoring}
METRIC_NAMES = {
    "wer": "word error rate",
    "cer": "character error rate",
    "attributes": "whole scene right",
    "object": "object right",
    "ink": "ink right",
    "background": "background right",
    "count": "count right",
    "relation": "relation right",
    "exact": "exact answer",
    "spoken": "spoken answer right",
    "spoken_closest": "spoken answer closest",
}
_SPLIT_ORDER = tuple(split for split in SPLITS if split.startswith("test"))
_BADGES = {"better than chance": "good", "at the ceiling": "good", "worse than chance": "bad"}
_COMPARISONS = ("random baseline", "codec reconstruction", "ground truth", "verdict")
_HEAD = ("task", "metric", "value", "95 % interval", "", "n", *_COMPARISONS)

ResultRow = dict[str, Any]
"""A row of `results.json`."""


def headline_table(rows: Sequence[ResultRow]) -> str:
    """Return one line per task: its primary metric on the first split it has."""
    chosen = []
    for task in TASK_TITLES:
        primary = [r for r in rows if r["task"] == task and r["is_primary"] and not r["slice"]]
        primary.sort(key=lambda r: _split_sort_key(r["split"]))
        chosen += primary[:1]
    if not chosen:
        return '<p class="soft">No task was evaluated.</p>'
    return _html_table(_HEAD, (_headline_cells(row) for row in chosen), "cards")


def splits_table(rows: Sequence[ResultRow]) -> str:
    """Return primary metrics with one column per split; empty with a single split."""
    primary = [r for r in rows if r["is_primary"] and not r["slice"]]
    names = sorted({r["split"] for r in primary}, key=_split_sort_key)
    if len(names) < 2:
        return ""
    lines = []
    for task in TASK_TITLES:
        found = {r["split"]: r for r in primary if r["task"] == task}
        if found:
            cells = [_format_value_with_interval(found.get(name)) for name in names]
            lines.append([TASK_TITLES[task], _metric_name(next(iter(found.values()))), *cells])
    return _html_table(("task", "metric", *names), lines, "cards")


def full_table(rows: Sequence[ResultRow]) -> str:
    """Return all rows, with the breakdown by group."""
    head = ("task", "split", "metric", "group", "value", "95 % interval", "n", "failures")
    lines = [
        [
            escape(row["task"]),
            escape(row["split"]),
            _metric_name(row),
            escape(row["slice"] or ""),
            format_number(row["value"]),
            f"{format_number(row['low'])} – {format_number(row['high'])}",
            str(row["n"]),
            str(row["failures"]),
            format_number(row["chance"]),
            format_number(row["reconstruction"]),
            format_number(row["ceiling"]),
            verdict_badge(row["verdict"]),
        ]
        for row in rows
    ]
    return _html_table((*head, *_COMPARISONS), lines, "")


def measurement_rules_table(rows: Sequence[ResultRow]) -> str:
    """Return how the random baseline and the ground truth were measured, per task."""
    seen = {row["task"]: (row["chance_rule"], row["ceiling_rule"]) for row in rows}
    items = [
        f"<li><b>{escape(TASK_TITLES.get(task, task))}</b> — random baseline: "
        f"{escape(baseline)}; ground truth: {escape(ground_truth)}.</li>"
        for task, (baseline, ground_truth) in seen.items()
    ]
    return f"<ul>{''.join(items)}</ul>"


def format_number(value: float | None) -> str:
    """Return three decimals, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def verdict_badge(verdict: str) -> str:
    """Return a verdict with its colour."""
    return f'<span class="badge {_BADGES.get(verdict, "poor")}">{escape(verdict)}</span>'


def text_table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table of plain texts, which are escaped."""
    return _html_table(head, ([escape(str(cell)) for cell in line] for line in lines), "")


def _headline_cells(row: ResultRow) -> list[str]:
    failures = f" <span class='soft'>({row['failures']} failed)</span>" if row["failures"] else ""
    split = f" <span class='soft'>{escape(row['split'])}</span>"
    interval = draw_interval(
        row["low"], row["value"], row["high"], baseline=row["chance"], ground_truth=row["ceiling"]
    )
    return [
        escape(str(TASK_TITLES.get(row["task"], row["task"]))) + split,
        _metric_name(row),
        f"<b>{format_number(row['value'])}</b>",
        f"<span class='even'>{format_number(row['low'])} – {format_number(row['high'])}</span>",
        interval,
        f"{row['n']}{failures}",
        format_number(row["chance"]),
        format_number(row["reconstruction"]),
        format_number(row["ceiling"]),
        verdict_badge(row["verdict"]),
    ]


def _format_value_with_interval(row: ResultRow | None) -> str:
    if row is None:
        return "–"
    return (
        f"<b>{format_number(row['value'])}</b> <span class='soft'>{format_number(row['low'])} – "
        f"{format_number(row['high'])}, n {row['n']}, "
        f"baseline {format_number(row['chance'])}</span>"
    )


def _metric_name(row: ResultRow) -> str:
    name = str(METRIC_NAMES.get(row["metric"], row["metric"]))
    return escape(name) + (" ↓" if row["is_lower_better"] else "")


def _split_sort_key(split: str) -> tuple[int, str]:
    known = _SPLIT_ORDER.index(split) if split in _SPLIT_ORDER else len(_SPLIT_ORDER)
    return known, split


def _html_table(head: Sequence[str], lines: Iterable[Sequence[str]], style: str) -> str:
    """Return a table of cells that are HTML."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-name="{escape(name)}">{cell}</td>'
            for name, cell in zip(head, line, strict=True)
        )
        + "</tr>"
        for line in lines
    )
    return (
        f'<div class="wide"><table class="{style}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
