"""The `experiment` verb: train and measure several arms, and say how far apart they are."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError, check_within
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.evaluation.run import check_wanted
from lightning_omni.evaluation.suite import RESULTS, TABLE, Plan
from lightning_omni.files import make_folder
from lightning_omni.generation.config import Sampling, check_seed
from lightning_omni.generation.plain_sampling import to_plain
from lightning_omni.generation.unused_options import check_ways
from lightning_omni.studies.experiments.compare import compare
from lightning_omni.studies.experiments.measured import Measured
from lightning_omni.studies.experiments.measurements import measure
from lightning_omni.studies.experiments.planning import check_same_data, plan_stages
from lightning_omni.studies.experiments.plot import draw_differences
from lightning_omni.studies.experiments.table import markdown
from lightning_omni.studies.experiments.training import Training, plan_trainings, train
from lightning_omni.studies.experiments.variants import Arm, check_arms, recipes_of

log = logging.getLogger(__name__)
TRAININGS = "trained"
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def experiment(
    *,
    name: str,
    claim: str,
    arms: dict[str, Arm],
    seeds: list[int],
    out: Path,
    tasks: list[str],
    split: str,
    limit: int,
    speech_limit: int,
    evaluation_seed: int,
    recipes: list[Path] | None = None,
    bound: bool = True,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Train every arm with every seed and write `results.json`, `results.md` and `<name>.png`.

    Trainings and measurements are kept in `<out>/trained` by what they are made from; those that
    are there are not repeated, whichever experiment asked for them. The results in `<out>/<name>`
    are written anew after each seed.

    Args:
        name: Of the experiment, its folder and its picture.
        claim: What is tested, in a sentence.
        arms: What is compared, by name; differences are to the first.
        seeds: Training seeds, each for every arm.
        out: Folder for trainings and results.
        tasks: Tasks to answer.
        split: A split that no reported number comes from.
        limit: Cases per task, chosen by the evaluation's seed.
        speech_limit: The same where the recognizer must listen.
        evaluation_seed: Of the choice of cases, of sampling, of the bound's masks and of intervals.
        recipes: Recipes of the verb `fit`, trained one after the other, each from the export of
            the one before.
        bound: Also measure the bound on the likelihood of answers, per modality.
        batch_size: Cases answered at once.

    Raises:
        OmniError: If the experiment cannot be done as asked, or a training fails.
    """
    check_wanted(tasks, [split], limit=min(limit, speech_limit))
    check_within("batch_size", batch_size, 1)
    check_seed(evaluation_seed, runs=max(limit, speech_limit))
    if not _NAME.fullmatch(name) or name == TRAININGS:
        raise OmniError(f"name is '{name}', wanted letters, digits, _ and -, not '{TRAININGS}'")
    given = recipes or []
    check_arms(arms, given, seeds)
    check_ways({arm: options.sampling or Sampling() for arm, options in arms.items()}, tasks)
    stages = {arm: plan_stages(arm, options, given) for arm, options in arms.items()}
    check_same_data(stages)
    home, folder = make_folder(out / TRAININGS), make_folder(out / name)
    plan = Plan(tasks, [split], limit, speech_limit, evaluation_seed, batch_size)
    results: dict[str, Any] = {
        "name": name,
        "claim": claim,
        "seeds": [],
        "arms": {arm: _plain(arm, options, given) for arm, options in arms.items()},
        "plan": asdict(plan),
        "bound": bound,
        **provenance(),
    }
    runs: dict[str, dict[int, dict[str, Measured]]] = {arm: {} for arm in arms}
    for seed in seeds:
        for arm, options in arms.items():
            trainings = plan_trainings(stages[arm], seed, home)
            for training in trainings:
                train(training, arm=arm, seed=seed)
            results["arms"][arm]["trainings"][seed] = [_record(each) for each in trainings]
            runs[arm][seed] = measure(
                trainings[-1], options.sampling or Sampling(), plan, with_bound=bound
            )
        results["seeds"].append(seed)
        _write(folder, results, runs)
    log.info("wrote %s", folder / TABLE)
    return results


def _write(
    folder: Path, results: dict[str, Any], runs: dict[str, dict[int, dict[str, Measured]]]
) -> None:
    """Put the rows of the seeds so far into the results, and write all three files."""
    rows = compare(runs, seed=results["plan"]["seed"])
    results["rows"] = [asdict(row) for row in rows]
    (folder / RESULTS).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    text = markdown(results["name"], results["claim"], rows, seeds=results["seeds"])
    (folder / TABLE).write_text(text)
    draw_differences(rows, folder / f"{results['name']}.png")


def _plain(name: str, arm: Arm, recipes: list[Path]) -> dict[str, Any]:
    """For the record."""
    return {
        "recipes": [str(path) for path in recipes_of(name, arm, recipes)],
        "set": arm.set,
        "sampling": to_plain(arm.sampling or Sampling()),
        "trainings": {},
    }


def _record(training: Training) -> dict[str, Any]:
    """Where a training is and how long it took."""
    return {"folder": str(training.folder), "seconds": training.seconds()}
