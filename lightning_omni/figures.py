"""Figures of matplotlib, without a screen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREY = "#2563b0", "#d97706", "#b8bec8"


def import_pyplot() -> Any:
    """Matplotlib without a screen, imported when something is drawn."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save_figure(figure: Any, axes: Iterable[Any], path: Path) -> None:
    """Write a figure without the frame around its axes, and forget it."""
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    import_pyplot().close(figure)
