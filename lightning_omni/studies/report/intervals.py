"""A confidence interval as inline SVG."""

from __future__ import annotations


def draw_interval(
    low: float, value: float, high: float, *, baseline: float | None, ground_truth: float | None
) -> str:
    """Return a picture of an interval, clipped to [0, 1], with baseline and ground truth."""

    def to_pixel(number: float) -> float:
        return 4 + 112 * min(1.0, max(0.0, number))

    marks = "".join(
        f'<line class="{name}" x1="{to_pixel(at):.1f}" x2="{to_pixel(at):.1f}" y1="2" y2="18"/>'
        for name, at in (("baseline", baseline), ("ground-truth", ground_truth))
        if at is not None
    )
    return (
        '<svg class="interval" viewBox="0 0 120 20" aria-hidden="true">'
        f'<line class="axis" x1="4" x2="116" y1="10" y2="10"/>{marks}'
        f'<line class="range" x1="{to_pixel(low):.1f}" x2="{to_pixel(high):.1f}" y1="10" y2="10"/>'
        f'<circle cx="{to_pixel(value):.1f}" cy="10" r="3.5"/></svg>'
    )
