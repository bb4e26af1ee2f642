"""Validation curves of an experiment: a scalar against training tokens, and what a start saves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_omni.errors import OmniError
from lightning_omni.figures import BLUE, GREY, ORANGE, import_pyplot, save_figure
from lightning_omni.studies.experiments.training import Training
from lightning_omni.studies.report.curves import EVENTS, read_curves

_COLOURS = (GREY, BLUE, ORANGE, "#2f855a", "#805ad5", "#c53030")


@dataclass(frozen=True, slots=True)
class ScalarCurve:
    """A scalar during the last training of a variant with one seed; smaller is better.

    Attributes:
        steps: Optimizer steps, ascending.
        values: Value at each step.
        tokens_per_step: Tokens of the batches of a step, packing gaps included.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    tokens_per_step: int

    def steps_to_reach(self, value: float) -> float | None:
        """Return the first step at which the curve is at a value, None if it stays above."""
        before: tuple[int, float] | None = None
        for step, here in zip(self.steps, self.values, strict=True):
            if here <= value:
                if before is None or before[1] <= here:
                    return float(step)
                share = (before[1] - value) / (before[1] - here)
                return before[0] + share * (step - before[0])
            before = step, here
        return None


Curves = Mapping[str, Mapping[int, ScalarCurve]]
"""Curves by variant and seed."""


def read_scalar_curve(training: Training, name: str) -> ScalarCurve:
    """Read a logged scalar of a finished training.

    Raises:
        OmniError: If it was not logged.
    """
    homes = sorted({path.parent for path in training.folder.rglob(EVENTS)})
    found = [curve for home in homes for curve in read_curves(home)[0]]
    curve = next((curve for curve in found if curve.name == name), None)
    if curve is None:
        logged = ", ".join(sorted({c.name for c in found if c.name.startswith("val")}))
        raise OmniError(f"'{training.folder}' has no curve '{name}'; it has {logged or 'none'}")
    settings = training.recipe["data"]["init_args"]
    batches = training.recipe["trainer"].get("accumulate_grad_batches", 1)
    tokens = settings["rows"] * settings["row_length"] * batches
    return ScalarCurve(tuple(curve.steps), tuple(curve.values), tokens)


def curve_table(curves: Curves, name: str) -> str:
    """Return a Markdown table of last values, and of the steps that reach those of the first."""
    first = next(iter(curves))
    lines = [
        f"## {name} during training",
        "",
        f"Means over seeds, brackets hold their range. The fourth column is the step at which "
        f"`{first}` of the same seed is first where the variant is at its end, interpolated; the "
        "last one is how many steps more those are than the variant's own.",
        "",
        f"| variant | steps | {name} at the end | steps of `{first}` to there | steps saved |",
        "|---|---|---|---|---|",
    ]
    for variant, by_seed in curves.items():
        own = list(by_seed.values())
        needed = [curves[first][seed].steps_to_reach(c.values[-1]) for seed, c in by_seed.items()]
        saved = [
            None if steps is None else steps - curve.steps[-1]
            for steps, curve in zip(needed, own, strict=True)
        ]
        lines.append(
            f"| {variant} | {own[0].steps[-1]:,} | "
            f"{_mean_and_range([curve.values[-1] for curve in own], '.3f')} | "
            + (
                "– | – |"
                if variant == first
                else f"{_mean_and_range(needed, '.0f')} | {_mean_and_range(saved, '.0f')} |"
            )
        )
    return "\n".join(lines) + "\n"


def _mean_and_range(values: Sequence[float | None], form: str) -> str:
    """Return a mean with the range over seeds; seeds that did not get there are counted."""
    known = [value for value in values if value is not None]
    if not known:
        return "not reached"
    missing = len(values) - len(known)
    text = f"{statistics.fmean(known):{form}} ({min(known):{form}} to {max(known):{form}})"
    return f"{text}, {missing} of {len(values)} seeds not" if missing else text


def draw_curves(curves: Curves, name: str, path: Path) -> None:
    """Draw the mean of each variant over seeds with its range, against training tokens.

    Args:
        curves: Curves of all variants and seeds.
        name: Scalar's name, for the axis.
        path: Image file to write.
    """
    plt = import_pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    for (variant, by_seed), colour in zip(curves.items(), _COLOURS, strict=False):
        each = list(by_seed.values())
        tokens = [step * each[0].tokens_per_step / 1000 for step in each[0].steps]
        at_step = list(zip(*(curve.values for curve in each), strict=True))
        axes.plot(tokens, [statistics.fmean(v) for v in at_step], color=colour, label=variant)
        low, high = [min(v) for v in at_step], [max(v) for v in at_step]
        axes.fill_between(tokens, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.set_xlabel("training tokens of this stage, thousands")
    axes.set_ylabel(name)
    axes.legend(frameon=False)
    save_figure(figure, [axes], path)
