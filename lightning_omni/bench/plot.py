"""One picture per suite: how many times as fast as the peer."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw_ratios(results: dict[str, Any], path: Path) -> None:
    """Bars of the ratios with their spread; the line at one is the peer."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = results["rows"]
    labels = [_label(row) for row in rows]
    figure, axes = plt.subplots(figsize=(1.5 + 1.2 * len(rows), 3.5))
    bars = axes.bar(labels, [row["ratio"] for row in rows], color="#2563b0", width=0.6)
    axes.errorbar(
        labels,
        [row["ratio"] for row in rows],
        yerr=[row["ratio_spread"] for row in rows],
        fmt="none",
        color="black",
        capsize=4,
    )
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.axhline(1, color="#d97706", linewidth=1)
    axes.set_ylabel("times as fast as the peer")
    axes.set_title(f"{results['suite']}, {results['machine']['processor']}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _label(row: dict[str, Any]) -> str:
    if "task" in row:
        return str(row["task"])
    steps = f"\n{row['steps']} steps" if "steps" in row else ""
    return f"{row['vocab_size']:,} ids{steps}"
