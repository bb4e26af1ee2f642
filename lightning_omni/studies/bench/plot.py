"""One figure per suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_omni.figures import BLUE, ORANGE, import_pyplot, save_figure


def draw_ratios(results: dict[str, Any], path: Path) -> None:
    """Draw speed-ups as bars with their spread, and a line at 1."""
    plt = import_pyplot()
    bars = [bar for row in results["rows"] for bar in _ratio_bars(row)]
    labels, ratios, spreads = zip(*bars, strict=True)
    figure, axes = plt.subplots(figsize=(1.5 + 1.1 * len(bars), 3.5))
    index = range(len(bars))
    drawn = axes.bar(index, ratios, color=BLUE, width=0.6)
    axes.errorbar(index, ratios, yerr=spreads, fmt="none", color="black", capsize=4)
    axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.set_xticks(index, labels, fontsize=7)
    axes.axhline(1, color=ORANGE, linewidth=1)
    axes.set_ylabel("times as fast")
    axes.set_title(f"{results['suite']}, {results['machine']['processor']}", fontsize=9)
    save_figure(figure, [axes], path)


def draw_growth(results: dict[str, Any], path: Path) -> None:
    """Draw time, and peak memory if measured, against each size on logarithmic axes."""
    plt = import_pyplot()
    rows = results["rows"]
    figure, grid = plt.subplots(1, len(rows), figsize=(3 * len(rows), 3))
    for axes, row in zip(grid, rows, strict=True):
        sizes = [int(n) for n in row["seconds"]]
        _draw_cost_curve(axes, sizes, list(row["seconds"].values()), "seconds", "o-", BLUE)
        if "peak_mb" in row:
            costs = list(row["peak_mb"].values())
            _draw_cost_curve(axes.twinx(), sizes, costs, "peak MB", "s--", ORANGE)
        axes.set_xticks(sizes, [str(n) for n in sizes], fontsize=6, rotation=45)
        axes.minorticks_off()
        axes.set_title(f"{row['against']}\nexponent {row['exponent']:.2f}", fontsize=8)
    save_figure(figure, grid, path)


def _draw_cost_curve(
    axes: Any, sizes: list[int], costs: list[float], unit: str, style: str, color: str
) -> None:
    """Draw a curve on logarithmic axes, with ticks at its smallest and largest cost."""
    axes.loglog(sizes, costs, style, color=color)
    axes.set_ylabel(unit, color=color, fontsize=8)
    ends = [min(costs), max(costs)]
    axes.set_yticks(ends, [f"{cost:,.3g}" if cost < 1000 else f"{cost:,.0f}" for cost in ends])
    axes.tick_params(axis="y", labelsize=7)
    axes.minorticks_off()


def _ratio_bars(row: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return label, ratio and spread of each bar of a row."""
    if "efficiency" in row or "tokens_per_cpu_s" in row:
        return []
    if "ratios" in row:
        what = row.get("task") or f"{row['prompt']} + {row['answer']}\nbatch {row['batch']}"
        spreads = row["ratios_spread"]
        return [(f"{name}\n{what}", r, spreads[name]) for name, r in row["ratios"].items()]
    if "chosen" in row:
        return [(f"{row['network']}\n{row['chosen']}", row["ratio"], row["ratio_spread"])]
    label = f"{row['vocab_size']:,} ids"
    if "steps" in row:
        label += f"\n{row['steps']} steps beside {row['peer_steps']}"
    bars = [(label, row["ratio"], row["ratio_spread"])]
    if "ratio_to_dllm" in row:
        bars.append((f"{label}\ndllm", row["ratio_to_dllm"], row["ratio_to_dllm_spread"]))
    return bars
