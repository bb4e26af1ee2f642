"""Training curves as inline SVG that follows the page's colours."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

from lightning_omni.studies.report.run_files import Curve

_WIDTH, _HEIGHT = 320, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 24
_POINTS = 240
_TICKS = 4
_STAGE = re.compile(r"(train|val|test)[/_]")
_FIRST = ("psnr", "ssim", "mel_l1", "loss", "accuracy", "usage")


def draw_curves(title: str, curves: Sequence[Curve]) -> str:
    """Draw curves that share axes; values that are not finite are left out."""
    lines = [_finite(curve) for curve in curves]
    points = [p for line in lines for p in line]
    if not points:
        return ""
    steps, values = [p[0] for p in points], [p[1] for p in points]
    x_range, y_range = (min(steps), max(steps)), _padded(min(values), max(values))
    body = [_axes(x_range, y_range)]
    for number, line in enumerate(lines):
        dots = " ".join(
            f"{_x(step, x_range):.1f},{_y(value, y_range):.1f}" for step, value in _thin(line)
        )
        kind = "circle" if len(line) == 1 else "line"
        body.append(_mark(kind, dots, number))
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
    """Put the same quantity of training and validation into one chart, the telling ones first."""
    groups: dict[str, list[Curve]] = {}
    for curve in sorted(curves, key=lambda c: c.name):
        if curve.name.endswith("_epoch"):
            continue
        groups.setdefault(quantity_of(curve.name), []).append(curve)
    return dict(sorted(groups.items(), key=lambda item: (_rank(item[0]), item[0])))


def quantity_of(name: str) -> str:
    """Name without the stage: `train/loss`, `val/loss` and `train_loss` are all `loss`."""
    found = _STAGE.match(name)
    return (name[found.end() :] if found else name).removesuffix("_step") or name


def _rank(quantity: str) -> int:
    """What a reader looks for first: the whole loss; breakdowns by noise level come last."""
    if quantity == "loss":
        return -1
    if "/bin" in quantity:
        return len(_FIRST) + 1
    found = (i for i, word in enumerate(_FIRST) if word in quantity)
    return next(found, len(_FIRST))


def draw_interval(
    low: float, value: float, high: float, *, chance: float | None, ceiling: float | None
) -> str:
    """Draw an interval on [0, 1] with the chance level and the ceiling; the rest is clipped."""

    def x(number: float) -> float:
        return 4 + 112 * min(1.0, max(0.0, number))

    marks = "".join(
        f'<line class="{name}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="2" y2="18"/>'
        for name, at in (("chance", chance), ("ceiling", ceiling))
        if at is not None
    )
    return (
        '<svg class="interval" viewBox="0 0 120 20" aria-hidden="true">'
        f'<line class="axis" x1="4" x2="116" y1="10" y2="10"/>{marks}'
        f'<line class="range" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="10" y2="10"/>'
        f'<circle cx="{x(value):.1f}" cy="10" r="3.5"/></svg>'
    )


def _finite(curve: Curve) -> list[tuple[int, float]]:
    pairs = zip(curve.steps, curve.values, strict=True)
    return [(step, value) for step, value in pairs if math.isfinite(value)]


def _thin(line: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Average neighbours so that a long curve stays light and readable."""
    size = max(1, -(-len(line) // _POINTS))
    groups = [line[i : i + size] for i in range(0, len(line), size)]
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups]


def _mark(kind: str, dots: str, number: int) -> str:
    if kind == "circle":
        x, _, y = dots.partition(",")
        return f'<circle class="dot c{number % 4}" cx="{x}" cy="{y}" r="3.5"/>'
    return f'<polyline class="c{number % 4}" points="{dots}"/>'


def _axes(x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    parts = []
    for i in range(_TICKS + 1):
        value = y_range[0] + (y_range[1] - y_range[0]) * i / _TICKS
        y = _y(value, y_range)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    anchors = ((x_range[0], "start"), (x_range[1], "end"))
    parts += [
        f'<text x="{_x(step, x_range):.1f}" y="{_HEIGHT - 7}" text-anchor="{anchor}">'
        f"{'step ' if anchor == 'start' else ''}{step:g}</text>"
        for step, anchor in (anchors if x_range[1] > x_range[0] else anchors[:1])
    ]
    return "".join(parts)


def _x(step: float, limits: tuple[float, float]) -> float:
    share = (step - limits[0]) / ((limits[1] - limits[0]) or 1)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, limits: tuple[float, float]) -> float:
    share = (value - limits[0]) / ((limits[1] - limits[0]) or 1)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _padded(low: float, high: float) -> tuple[float, float]:
    """A little room around values, but none below zero for what is never negative."""
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin
