"""The `calibrate` verb: the quality and the cost of sampling configs, and which each preset takes.

Every config answers the same examples. A preset takes the config with the fewest forward passes
whose paired loss against the best config is within the preset's tolerance in standard errors.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_omni.argument_checks import check_seed, check_within
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.command import check_tasks, load_model_and_suite
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.statistics import (
    Score,
    is_error_rate,
    paired_difference,
    summarize_metric,
)
from lightning_omni.evaluation.suite import Plan, Suite, evaluate_task
from lightning_omni.evaluation.table import primary_metric
from lightning_omni.figures import BLUE, GREY, ORANGE, import_pyplot, save_figure
from lightning_omni.files import make_folder
from lightning_omni.generation.config import GenerationConfig, config_to_dict
from lightning_omni.generation.modality_defaults import Preset
from lightning_omni.generation.omni import Omni
from lightning_omni.generation.presets import save_presets
from lightning_omni.pretrained import FOLDER, fingerprint, resolve_pretrained
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder
from lightning_omni.whole_files import write_text

log = logging.getLogger(__name__)
CALIBRATION, TABLE = "calibration.json", "calibration.md"
TOLERANCE: dict[Preset, float] = {"fast": 2.0, "balanced": 1.0, "best": 0.0}
"""Largest loss of a preset against the best config, in standard errors."""
MAX_LABELS = 8
"""Points that a figure labels when none is left out."""


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Quality and cost of one config on one task.

    Attributes:
        task: Task name.
        config: Config name.
        metric: Primary metric of the task.
        is_lower_better: Whether the metric is an error rate.
        value: Metric over all examples.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        n: Number of examples.
        difference: Mean paired difference to the first config.
        difference_error: Standard error of the difference.
        forwards: Forward passes per answer.
        seconds: Seconds per answer.
    """

    task: str
    config: str
    metric: str
    is_lower_better: bool
    value: float
    low: float
    high: float
    n: int
    difference: float
    difference_error: float
    forwards: float
    seconds: float

    @property
    def difference_text(self) -> str:
        """The difference with its standard error, which one example does not give."""
        error = "" if math.isnan(self.difference_error) else f" ± {self.difference_error:.3f}"
        return f"{self.difference:+.3f}{error}"

    def __str__(self) -> str:
        return (
            f"{self.task} {self.config}: {self.metric} {self.value:.3f} ({self.low:.3f} to "
            f"{self.high:.3f}, n = {self.n}), {self.difference_text} against the first; "
            f"{self.forwards:.1f} forward passes, {self.seconds:.3f} s"
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A config that a preset of one task may take.

    Attributes:
        config: Config name.
        forwards: Forward passes per answer.
        loss: Paired difference to the best config, positive if worse; 0 for the best.
        error: Standard error of the loss.
    """

    config: str
    forwards: float
    loss: float
    error: float


def calibrate(
    *,
    model: Path,
    data: str,
    out: Path,
    tasks: list[str],
    configs: dict[str, GenerationConfig],
    split: str = "val",
    limit: int = 200,
    speech_limit: int = 60,
    seed: int = 956,
    batch_size: int = 16,
    into_model: bool = False,
    continuous_speech: SpeechFeatureEncoder | None = None,
    device: str = AUTO,
) -> dict[str, Any]:
    """Compare sampling configs on the same examples; write a table, JSON and one figure per task.

    The results also say which config each preset should be: the best one for `best`, and the
    cheapest within one standard error of it for `balanced`, within two for `fast`. Files are
    rewritten after each task, so an interrupted run keeps the tasks it finished.

    Args:
        model: Folder of an exported model, or `bundled`.
        data: Folder or URL written by prep-data; media of a folder are encoded first where that was
            not done, those at a URL have to be.
        out: Output folder.
        tasks: Tasks to answer.
        configs: Sampling configs by name; differences are against the first.
        split: Data split, which must not be a reported test split.
        limit: Examples per task.
        speech_limit: Examples per task for tasks that need the speech recognizer, which is slow.
        seed: Seed of example choice and sampling.
        batch_size: Examples per batch.
        into_model: Write the chosen presets into the model's folder, where `generate` reads them.
        continuous_speech: Speech feature encoder; required if the model was trained with one.
        device: Device: auto, cpu, cuda or cuda:N.

    Raises:
        OmniError: If a folder, task or split does not exist, or `configs` is empty.
    """
    check_tasks(tasks, [split], limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_seed(seed, runs=max(limit, speech_limit))
    used = resolve_device(device)
    if not configs:
        raise OmniError("no configs to compare; name at least one under `configs`")
    model = resolve_pretrained(str(model))
    if into_model and model == FOLDER:
        raise OmniError(
            "into_model would change the bundled model; copy its folder and calibrate the copy"
        )
    make_folder(out)
    omni, suite = load_model_and_suite(
        model, parse_location(data), tasks, continuous_speech, device=used
    )
    plan = Plan(tasks, [split], limit, speech_limit, seed, batch_size)
    omni.presets = {}  # configs are measured against the package's defaults
    rows: list[CalibrationRow] = []
    choices: dict[str, dict[Preset, str]] = {}
    for task in tasks:
        task_rows, choices[task] = _compare_configs(omni, suite, plan, task, configs)
        rows += task_rows
        results = {
            "model": str(model),
            "fingerprint": fingerprint(model),
            "configs": {name: config_to_dict(config) for name, config in configs.items()},
            "seed": seed,
            **provenance(used),
            **omni.describe_computation(),
            "choice": group_choices_by_preset(choices),
            "rows": [asdict(row) for row in rows],
        }
        write_text(out / CALIBRATION, json.dumps(results, indent=1) + "\n")
        write_text(out / TABLE, calibration_table(rows, choices))
        draw_pareto(task_rows, out)
        if into_model:
            save_presets({p: {task: configs[c]} for p, c in choices[task].items()}, model)
    log.info("wrote %s", out / TABLE)
    return results


def choose_configs(candidates: Sequence[Candidate]) -> dict[Preset, str]:
    """Return the config of each preset: the cheapest whose loss is within the tolerance.

    A config without any loss counts as the best, whatever its error.

    Args:
        candidates: All configs, compared with the best of them.
    """
    return {
        preset: min(
            (c for c in candidates if c.loss <= tolerance * c.error or c.loss <= 0),
            key=lambda c: c.forwards,
        ).config
        for preset, tolerance in TOLERANCE.items()
    }


def group_choices_by_preset(
    choices: Mapping[str, Mapping[Preset, str]],
) -> dict[Preset, dict[str, str]]:
    """Return the config names by preset and task, given them by task and preset."""
    return {
        preset: {task: chosen[preset] for task, chosen in choices.items()} for preset in TOLERANCE
    }


def calibration_table(
    rows: Sequence[CalibrationRow], choices: Mapping[str, Mapping[Preset, str]]
) -> str:
    """Return one Markdown table per task: value, paired difference to the first config, cost.

    Args:
        rows: All rows, grouped by task.
        choices: Config name by task and preset.
    """
    tables = []
    for task, (first, *others) in _group_by_task(rows).items():
        lines = [
            f"## {task}, n = {first.n}",
            "",
            f"| config | {_point_label(first)} | 95 % interval | difference to {first.config} | "
            "forward passes | seconds |",
            "|---|---|---|---|---|---|",
            _row_to_table_line(first, ""),
            *(_row_to_table_line(row, row.difference_text) for row in others),
        ]
        chosen = ", ".join(
            f"{preset} {name[task]}" for preset, name in group_choices_by_preset(choices).items()
        )
        tables.append("\n".join([*lines, "", f"Chosen: {chosen}."]))
    return "\n\n".join(tables) + "\n"


def draw_pareto(rows: Sequence[CalibrationRow], folder: Path) -> None:
    """Draw quality against forward passes into `pareto_<task>.png`, with the Pareto front.

    Among more than `MAX_LABELS` configs only the front and the first one are labelled.
    """
    plt = import_pyplot()
    for task, task_rows in _group_by_task(rows).items():
        first = task_rows[0]
        figure, axes = plt.subplots(figsize=(6, 4))
        front = sorted(pareto_front(task_rows), key=lambda row: row.forwards)
        for row in task_rows:
            is_labelled = len(task_rows) <= MAX_LABELS or row in front or row is first
            color = BLUE if is_labelled else GREY
            interval = [[row.value - row.low], [row.high - row.value]]
            axes.errorbar(row.forwards, row.value, yerr=interval, fmt="o", color=color)
            axes.annotate(
                row.config if is_labelled else "",
                (row.forwards, row.value),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=8,
            )
        axes.plot([r.forwards for r in front], [r.value for r in front], color=ORANGE)
        axes.set_xscale("log")
        for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            set_formatter(lambda x, _: f"{x:g}")
        axes.set_xlabel("forward passes per answer")
        axes.set_ylabel(_point_label(first))
        axes.set_title(f"{task}, n = {first.n}", fontsize=10)
        save_figure(figure, [axes], folder / f"pareto_{task}.png")


def pareto_front(rows: Sequence[CalibrationRow]) -> list[CalibrationRow]:
    """Return the rows that no other row dominates in quality and forward passes."""

    def oriented_value(row: CalibrationRow) -> float:
        return -row.value if row.is_lower_better else row.value

    def is_dominated(row: CalibrationRow) -> bool:
        return any(
            oriented_value(other) >= oriented_value(row)
            and other.forwards <= row.forwards
            and (oriented_value(other), other.forwards) != (oriented_value(row), row.forwards)
            for other in rows
        )

    return [row for row in rows if not is_dominated(row)]


def _compare_configs(
    omni: Omni, suite: Suite, plan: Plan, task: str, configs: Mapping[str, GenerationConfig]
) -> tuple[list[CalibrationRow], dict[Preset, str]]:
    """Measure all configs on one task; return their rows and the config of each preset."""
    examples = suite.draw_task_examples(task, plan)
    rows: list[CalibrationRow] = []
    first: list[Score] = []
    scores: dict[str, list[Score]] = {}
    for name, config in configs.items():
        result = evaluate_task(omni, suite, plan, task, examples, config)
        scores[name] = result.scores
        first = first or result.scores
        metric = primary_metric(task, result.scores)
        estimate = summarize_metric(result.scores, metric, seed=plan.seed)
        assert estimate is not None  # noqa: S101 - there are examples
        difference = paired_difference(result.scores, first, metric)
        rows.append(
            CalibrationRow(
                task=task,
                config=name,
                metric=metric,
                is_lower_better=is_error_rate(metric),
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                n=estimate.n,
                difference=difference.mean,
                difference_error=difference.error,
                forwards=result.forwards,
                seconds=result.seconds,
            )
        )
        log.info("%s", rows[-1])
    return rows, choose_configs(_compare_with_best(rows, scores))


def _compare_with_best(
    rows: Sequence[CalibrationRow], scores: Mapping[str, list[Score]]
) -> list[Candidate]:
    """Compare all configs with the best one; among equally good ones that is the cheapest."""
    sign = 1.0 if rows[0].is_lower_better else -1.0
    best = min(rows, key=lambda row: (sign * row.value, row.forwards))
    candidates = []
    for row in rows:
        found = paired_difference(scores[row.config], scores[best.config], row.metric)
        error = 0.0 if math.isnan(found.error) else found.error
        candidates.append(Candidate(row.config, row.forwards, sign * found.mean, error))
    return candidates


def _group_by_task(rows: Sequence[CalibrationRow]) -> dict[str, list[CalibrationRow]]:
    return {
        task: [row for row in rows if row.task == task]
        for task in dict.fromkeys(row.task for row in rows)
    }


def _point_label(row: CalibrationRow) -> str:
    return row.metric + (" ↓" if row.is_lower_better else "")


def _row_to_table_line(row: CalibrationRow, difference: str) -> str:
    return (
        f"| {row.config} | {row.value:.3f} | {row.low:.3f} to {row.high:.3f} | "
        f"{difference} | {row.forwards:.1f} | {row.seconds:.3f} |"
    )
