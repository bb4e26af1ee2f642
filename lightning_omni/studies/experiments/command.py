"""The `experiment` verb: train and measure several variants, and compare them with errors."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_omni.argument_checks import check_seed, check_within
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.command import check_tasks
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.suite import RESULTS, TABLE, Plan
from lightning_omni.files import make_folder
from lightning_omni.generation.config import GenerationConfig, config_to_dict
from lightning_omni.studies.experiments.comparison import (
    compare_variants,
    comparison_table,
    draw_differences,
)
from lightning_omni.studies.experiments.curves import (
    ScalarCurve,
    curve_table,
    draw_curves,
    read_scalar_curve,
)
from lightning_omni.studies.experiments.measurements import Measurement, measure_model
from lightning_omni.studies.experiments.training import Training, plan_trainings, run_training
from lightning_omni.studies.experiments.variants import (
    Variant,
    check_same_data,
    check_variants,
    plan_stages,
    variant_recipes,
)
from lightning_omni.whole_files import write_text

log = logging.getLogger(__name__)
TRAININGS = "trained"
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def experiment(
    *,
    name: str,
    claim: str,
    variants: dict[str, Variant],
    tasks: list[str],
    recipes: list[Path] | None = None,
    seeds: list[int],
    out: Path = Path("runs/experiments"),
    split: str = "val",
    limit: int = 120,
    speech_limit: int = 40,
    evaluation_seed: int = 956,
    nelbo: bool = True,
    answers: bool = True,
    curve: str | None = None,
    batch_size: int = 16,
    device: str = AUTO,
) -> dict[str, Any]:
    """Train every variant with every seed; write `results.json`, `results.md` and `<name>.png`.

    Trainings and measurements are stored in `<out>/trained`, named by a digest of their inputs, and
    shared by all experiments. The results in `<out>/<name>` are rewritten after each seed.

    Args:
        name: Name of the experiment, its folder and its figure.
        claim: Hypothesis under test, in a sentence.
        variants: Variants by name; differences are to the first.
        tasks: Tasks to answer.
        recipes: Recipes of the verb `fit`, trained one after the other, each from the export of
            the one before.
        seeds: Training seeds, used for every variant.
        out: Folder of trainings and results.
        split: Data split, which must not be a reported test split.
        limit: Examples per task.
        speech_limit: Examples per task for tasks that need the speech recognizer, which is slow.
        evaluation_seed: Seed of example choice, sampling, NELBO masks and bootstrap intervals.
        nelbo: Also measure the NELBO of answers, per modality.
        answers: Generate answers and score them; without, the NELBO alone is measured.
        curve: Scalar that validation logs, such as `val_nelbo/text`, to draw against training
            tokens in `<name>_curves.png`; None for no curves.
        batch_size: Examples per batch.
        device: Device of trainings and measurements: auto, cpu, cuda or cuda:N.

    Raises:
        OmniError: If an option or a recipe is wrong, or a training fails.
    """
    check_tasks(tasks, [split], limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_seed(evaluation_seed, runs=max(limit, speech_limit))
    used = resolve_device(device)
    if not _NAME.fullmatch(name) or name == TRAININGS:
        raise OmniError(f"name is '{name}', wanted letters, digits, _ and -, not '{TRAININGS}'")
    shared = recipes or []
    check_variants(variants, shared, seeds)
    sampling = {key: variant.sampling or GenerationConfig() for key, variant in variants.items()}
    stages = {key: plan_stages(key, variant, shared) for key, variant in variants.items()}
    check_same_data(stages)
    if not (nelbo or answers):
        raise OmniError("nelbo and answers are both false, so nothing would be measured; set one")
    home, folder = make_folder(out / TRAININGS), make_folder(out / name)
    plan = Plan(tasks, [split], limit, speech_limit, evaluation_seed, batch_size)
    results: dict[str, Any] = {
        "name": name,
        "claim": claim,
        "seeds": [],
        "variants": {
            key: {
                "recipes": [str(path) for path in variant_recipes(key, variant, shared)],
                "set": variant.set,
                "sampling": config_to_dict(sampling[key]),
                "trainings": {},
            }
            for key, variant in variants.items()
        },
        "plan": asdict(plan),
        "nelbo": nelbo,
        "answers": answers,
        **provenance(used),
    }
    runs: dict[str, dict[int, dict[str, Measurement]]] = {key: {} for key in variants}
    curves: dict[str, dict[int, ScalarCurve]] = {key: {} for key in variants}
    for seed in seeds:
        for key in variants:
            trainings = plan_trainings(stages[key], seed, home)
            for training in trainings:
                run_training(training, variant=key, seed=seed, device=used)
            results["variants"][key]["trainings"][seed] = [
                _training_record(each) for each in trainings
            ]
            runs[key][seed] = measure_model(
                trainings[-1],
                sampling[key],
                plan,
                with_nelbo=nelbo,
                with_answers=answers,
                device=used,
            )
            if curve is not None:
                curves[key][seed] = read_scalar_curve(trainings[-1], curve)
        results["seeds"].append(seed)
        _write_results(folder, results, runs)
        if curve is not None:
            _write_curves(folder, results, curves, curve)
    log.info("wrote %s", folder / TABLE)
    return results


def _write_results(
    folder: Path, results: dict[str, Any], runs: dict[str, dict[int, dict[str, Measurement]]]
) -> None:
    """Compare the seeds measured so far; write the JSON, the table and the figure."""
    rows = compare_variants(runs, seed=results["plan"]["seed"])
    results["rows"] = [asdict(row) for row in rows]
    write_text(folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    text = comparison_table(results["name"], results["claim"], rows, seeds=results["seeds"])
    write_text(folder / TABLE, text)
    draw_differences(rows, folder / f"{results['name']}.png")


def _write_curves(
    folder: Path, results: dict[str, Any], curves: dict[str, dict[int, ScalarCurve]], name: str
) -> None:
    """Add the curves to the JSON and their table to the Markdown, and draw them."""
    results["curve"] = {
        "name": name,
        "variants": {
            key: {seed: asdict(curve) for seed, curve in each.items()}
            for key, each in curves.items()
        },
    }
    write_text(folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    table = (folder / TABLE).read_text("utf-8")
    write_text(folder / TABLE, f"{table}\n{curve_table(curves, name)}")
    draw_curves(curves, name, folder / f"{results['name']}_curves.png")


def _training_record(training: Training) -> dict[str, Any]:
    """Return the folder and the duration of a training."""
    return {"folder": str(training.folder), "seconds": training.wall_seconds()}
