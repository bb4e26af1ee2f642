"""Quality against cost of ways of sampling, one picture per task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_omni.files import BLUE, GREY, ORANGE, pyplot, save_figure

FEW = 8


def draw_pareto(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write `pareto_<task>.png`; ways that no other beats in both are joined by a line.

    Of many ways only those and the first are named; the table has the others.
    """
    plt = pyplot()
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task]
        figure, axes = plt.subplots(figsize=(6, 4))
        best = sorted(front(here), key=lambda row: float(row["forwards"]))
        for row in here:
            is_named = len(here) <= FEW or row in best or row is here[0]
            color = BLUE if is_named else GREY
            spread = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            axes.errorbar(row["forwards"], row["value"], yerr=spread, fmt="o", color=color)
            axes.annotate(
                row["way"] if is_named else "",
                (row["forwards"], row["value"]),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=8,
            )
        axes.plot([r["forwards"] for r in best], [r["value"] for r in best], color=ORANGE)
        axes.set_xscale("log")
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(lambda x, _: f"{x:g}")
        axes.set_xlabel("forward passes per answer")
        axes.set_ylabel(here[0]["metric"] + (" ↓" if here[0]["is_lower_better"] else ""))
        axes.set_title(f"{task}, n = {here[0]['n']}", fontsize=10)
        save_figure(figure, [axes], folder / f"pareto_{task}.png")


def front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ways that no other beats in quality and cost at once."""

    def gain(row: dict[str, Any]) -> float:
        return float(-row["value"] if row["is_lower_better"] else row["value"])

    def is_beaten(row: dict[str, Any]) -> bool:
        return any(
            gain(o) >= gain(row)
            and o["forwards"] <= row["forwards"]
            and (gain(o), -o["forwards"]) != (gain(row), -row["forwards"])
            for o in rows
        )

    return [row for row in rows if not is_beaten(row)]
