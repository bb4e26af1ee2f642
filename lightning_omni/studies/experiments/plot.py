"""Differences to the first arm, one panel per metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_omni.files import BLUE, ORANGE, pyplot, save_figure
from lightning_omni.studies.experiments.compare import Row

_COLUMNS = 4
_APART = 0.12  # of the two whiskers of a point


def draw_differences(rows: Sequence[Row], path: Path) -> None:
    """Points with whiskers of one standard error, over seeds, if several, and over cases.

    Args:
        rows: From `compare`.
        path: Of the picture.
    """
    plt = pyplot()
    panels = dict.fromkeys((row.test, row.metric) for row in rows)
    arms = list(dict.fromkeys(row.arm for row in rows))
    columns = min(_COLUMNS, len(panels))
    height = -(-len(panels) // columns)
    size = (1.2 + 2.6 * columns, height * (1.1 + 0.35 * len(arms)))
    figure, grid = plt.subplots(height, columns, figsize=size, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    drawn = list(zip(grid.flat, panels, strict=False))
    for axes, panel in drawn:
        _draw_panel(axes, [row for row in rows if (row.test, row.metric) == panel])
        axes.set_yticks(range(len(arms)), arms, fontsize=8)
        axes.set_ylim(len(arms) - 0.5, -0.5)
    drawn[0][0].legend(fontsize=6)
    save_figure(figure, [axes for axes, _ in drawn], path)


def _draw_panel(axes: Any, rows: Sequence[Row]) -> None:
    """One metric, the arms from top to bottom."""
    axes.axvline(0, color="black", linewidth=0.8)
    axes.plot(0, 0, "o", color="black")
    others = rows[1:]
    for color, shift, over in ((BLUE, -_APART, "seeds"), (ORANGE, _APART, "cases")):
        errors = [getattr(row, f"error_over_{over}") for row in others]
        if over == "seeds" and None in errors:
            continue  # there is one seed
        axes.errorbar(
            [row.difference for row in others],
            [place + shift for place in range(1, len(rows))],
            xerr=[error or 0 for error in errors],
            fmt="o",
            markersize=4,
            capsize=3,
            color=color,
            label=f"± s.e. over {over}",
        )
    first = rows[0]
    axes.set_xlabel(f"difference to {first.arm}" + (" ↓" if first.is_lower_better else ""), size=8)
    axes.locator_params(axis="x", nbins=5)  # more labels would touch
    axes.set_title(f"{first.test}: {first.metric}, n = {first.n}", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
