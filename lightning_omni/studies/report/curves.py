"""Training curves: read from TensorBoard events, drawn as inline SVG in the page's colours."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    SCALARS,
    EventAccumulator,
)

EVENTS = "events.out.tfevents.*"

_WIDTH, _HEIGHT = 320, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 24
_POINTS = 240
_TICKS = 4
_STAGE = re.compile(r"(train|val|test)[/_]")
_UNPLOTTED = ("epoch", "hp_metric")
_FIRST = ("psnr", "ssim", "mel_l1", "loss", "accuracy", "usage")


@dataclass(frozen=True, slots=True)
class Curve:
    """One logged scalar.

    Attributes:
        name: Tag of the scalar.
        steps: Optimizer steps.
        values: Value at each step.
    """

    name: str
    steps: list[int]
    values: list[float]


def read_curves(home: Path) -> tuple[list[Curve], float]:
    """Read the TensorBoard scalars of a folder.

    A resumed run continues in a new file, which overrides older ones from its first step on.

    Returns:
        Curves by name, and the seconds of logging without the gaps between files.
    """
    files: list[list[tuple[str, Any]]] = []
    for path in sorted(home.glob(EVENTS), key=lambda p: (p.stat().st_mtime, p.name)):
        newer = _read_scalars(path)
        start = min((event.step for _, event in newer), default=math.inf)
        files = [[(n, e) for n, e in older if e.step < start] for older in files] + [newer]
    found: dict[str, dict[int, float]] = {}
    for name, event in chain.from_iterable(files):
        found.setdefault(name, {})[event.step] = event.value
    curves = [
        Curve(name, sorted(points), [points[s] for s in sorted(points)])
        for name, points in sorted(found.items())
        if name not in _UNPLOTTED
    ]
    times = [[event.wall_time for _, event in file] for file in files]
    return curves, sum(max(file) - min(file) for file in times if file)


def draw_curves(title: str, curves: Sequence[Curve]) -> str:
    """Return a chart of curves that share axes, without values that are not finite."""
    lines = [_finite_points(curve) for curve in curves]
    points = [p for line in lines for p in line]
    if not points:
        return ""
    steps, values = [p[0] for p in points], [p[1] for p in points]
    x_range, y_range = (min(steps), max(steps)), _pad_limits(min(values), max(values))
    body = [_draw_axes(x_range, y_range)]
    for number, line in enumerate(lines):
        dots = " ".join(
            f"{_x_pixel(step, x_range):.1f},{_y_pixel(value, y_range):.1f}"
            for step, value in _average_neighbours(line)
        )
        kind = "circle" if len(line) == 1 else "line"
        body.append(_draw_mark(kind, dots, number))
    legend = " ".join(
        f'<span class="key c{i % 4}">{escape(curve.name)}'
        f"{f' {line[-1][1]:.3g}' if line else ''}</span>"
        for i, (curve, line) in enumerate(zip(curves, lines, strict=True))
    )
    return (
        f'<figure class="curve"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'{"".join(body)}</svg><div class="legend">{legend}</div></figure>'
    )


def group_curves(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Group the curves of one quantity in training and validation, important quantities first."""
    groups: dict[str, list[Curve]] = {}
    for curve in sorted(curves, key=lambda c: c.name):
        if curve.name.endswith("_epoch"):
            continue
        groups.setdefault(remove_stage_name(curve.name), []).append(curve)
    return dict(sorted(groups.items(), key=lambda item: (_quantity_rank(item[0]), item[0])))


def remove_stage_name(name: str) -> str:
    """Return a name without its stage: `loss` for `train/loss`, `val/loss` and `train_loss`."""
    found = _STAGE.match(name)
    return (name[found.end() :] if found else name).removesuffix("_step") or name


def _quantity_rank(quantity: str) -> int:
    """Return the place of a quantity: the total loss first, breakdowns by noise level last."""
    if quantity == "loss":
        return -1
    if "/bin" in quantity:
        return len(_FIRST) + 1
    found = (i for i, word in enumerate(_FIRST) if word in quantity)
    return next(found, len(_FIRST))


def _read_scalars(path: Path) -> list[tuple[str, Any]]:
    """Return every scalar of an event file with its name."""
    accumulator = EventAccumulator(str(path), size_guidance={SCALARS: 0})
    accumulator.Reload()
    names = accumulator.Tags()[SCALARS]
    return [(name, event) for name in names for event in accumulator.Scalars(name)]


def _finite_points(curve: Curve) -> list[tuple[int, float]]:
    pairs = zip(curve.steps, curve.values, strict=True)
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def _average_neighbours(line: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Average neighbouring points of a long curve."""
    size = max(1, -(-len(line) // _POINTS))
    groups = [line[i : i + size] for i in range(0, len(line), size)]
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups]


def _draw_mark(kind: str, dots: str, number: int) -> str:
    if kind == "circle":
        x, _, y = dots.partition(",")
        return f'<circle class="dot c{number % 4}" cx="{x}" cy="{y}" r="3.5"/>'
    return f'<polyline class="c{number % 4}" points="{dots}"/>'


def _draw_axes(x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    parts = []
    for i in range(_TICKS + 1):
        value = y_range[0] + (y_range[1] - y_range[0]) * i / _TICKS
        y = _y_pixel(value, y_range)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    anchors = ((x_range[0], "start"), (x_range[1], "end"))
    parts += [
        f'<text x="{_x_pixel(step, x_range):.1f}" y="{_HEIGHT - 7}" text-anchor="{anchor}">'
        f"{'step ' if anchor == 'start' else ''}{step:g}</text>"
        for step, anchor in (anchors if x_range[1] > x_range[0] else anchors[:1])
    ]
    return "".join(parts)


def _x_pixel(step: float, limits: tuple[float, float]) -> float:
    share = (step - limits[0]) / ((limits[1] - limits[0]) or 1)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y_pixel(value: float, limits: tuple[float, float]) -> float:
    share = (value - limits[0]) / ((limits[1] - limits[0]) or 1)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _pad_limits(low: float, high: float) -> tuple[float, float]:
    """Return limits with a margin, not below zero for values that are never negative."""
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin
