"""A calibration as a table for people."""

from __future__ import annotations

from typing import Any

from lightning_omni.generation.defaults import Quality
from lightning_omni.studies.choose import by_quality


def markdown(rows: list[dict[str, Any]], choices: dict[str, dict[Quality, str]]) -> str:
    """One table a task: each way's number, its paired difference to the first, and its cost.

    Args:
        rows: Of `calibration.json`.
        choices: Of each task, the way that each quality stands for.
    """
    tables = []
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task]
        metric = here[0]["metric"] + (" ↓" if here[0]["is_lower_better"] else "")
        lines = [
            f"## {task}, n = {here[0]['n']}",
            "",
            f"| way | {metric} | 95 % interval | to {here[0]['way']} | forwards | seconds |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_line(row, is_first=row is here[0]) for row in here]
        chosen = ", ".join(f"{q} {ways[task]}" for q, ways in by_quality(choices).items())
        tables.append("\n".join([*lines, "", f"Chosen: {chosen}."]))
    return "\n\n".join(tables) + "\n"


def _line(row: dict[str, Any], *, is_first: bool) -> str:
    difference = "" if is_first else f"{row['difference']:+.3f} ± {row['difference_error']:.3f}"
    return (
        f"| {row['way']} | {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} | "
        f"{difference} | {row['forwards']:.1f} | {row['seconds']:.3f} |"
    )
