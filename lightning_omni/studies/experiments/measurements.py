"""Measure a trained model, its answers and its NELBO, and keep the scores beside it."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_omni.data.storage.locations import parse_location
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.command import load_model_and_suite
from lightning_omni.evaluation.provenance import manifest_hash, provenance
from lightning_omni.evaluation.statistics import Score
from lightning_omni.evaluation.suite import Plan, Suite, evaluate_task
from lightning_omni.files import read_json_object
from lightning_omni.generation.config import GenerationConfig, config_to_dict
from lightning_omni.generation.omni import Omni
from lightning_omni.metrics.nelbo import NelboPerToken
from lightning_omni.nn.computation import computation_facts
from lightning_omni.pretrained import fingerprint, load_weights
from lightning_omni.studies.experiments.recipe import (
    Recipe,
    build_module_and_data,
    json_digest,
    with_test_split,
)
from lightning_omni.studies.experiments.training import Training

log = logging.getLogger(__name__)
NELBO = "nelbo"
NELBO_PER_TOKEN = "nelbo_per_token"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Scores of one model on the examples of one test, in an order that all models share.

    Attributes:
        keys: Name of each example.
        scores: Score of each example.
        errors: Standard error over examples by metric, where the metric provides one.
        forwards: Forward passes per answer; None for the NELBO.
        seconds: Seconds per answer; None for the NELBO.
        computation: Number format and attention kernel; None where it was read.
    """

    keys: list[str]
    scores: list[Score]
    errors: dict[str, float] | None = None
    forwards: float | None = None
    seconds: float | None = None
    computation: dict[str, str] | None = None


def measure_model(
    training: Training,
    sampling: GenerationConfig,
    plan: Plan,
    *,
    with_nelbo: bool,
    with_answers: bool = True,
    device: torch.device,
) -> dict[str, Measurement]:
    """Measure a trained model on all tests; measurements that are already stored are read.

    Args:
        training: Finished training, whose export is measured.
        sampling: Sampling config.
        plan: Tasks, one split, limits and seed, equal for all models.
        with_nelbo: Also measure the NELBO of the first `plan.limit` samples of each task.
        with_answers: Generate answers to the tasks and score them.
        device: Device to measure on.

    Returns:
        Measurements by task, and under `nelbo`.

    Raises:
        OmniError: If a task has no examples, or every answer fails.
    """
    data = parse_location(training.recipe["data"]["init_args"]["data"])
    export = training.export_folder
    (split,) = plan.splits
    inputs = {
        "model": fingerprint(export),
        "manifest": manifest_hash(data),
        "split": split,
        "seed": plan.seed,
    }

    @functools.cache
    def load_once() -> tuple[Omni, Suite]:
        encoder = None
        if training.recipe["data"]["init_args"].get("continuous_speech") is not None:
            encoder = build_module_and_data(training.recipe)[1].continuous_speech
        return load_model_and_suite(export, data, plan.tasks, encoder, device=device)

    def measure_task(task: str) -> Measurement:
        log.info("measuring %s of '%s'", task, export)
        omni, suite = load_once()
        examples = suite.draw_task_examples(task, plan)
        result = evaluate_task(omni, suite, plan, task, examples, sampling)
        keys = [example.sample.key for example in examples]
        return Measurement(
            keys, result.scores, {}, result.forwards, result.seconds, omni.describe_computation()
        )

    def measure_likelihood() -> Measurement:
        log.info("measuring the NELBO of '%s'", export)
        recipe = with_test_split(
            training.recipe, tasks=plan.tasks, split=split, limit=plan.limit, seed=plan.seed
        )
        return measure_nelbo(recipe, export, device=device)

    folder = training.folder / "measured"
    config = {"sampling": config_to_dict(sampling), "batch_size": plan.batch_size}
    found = {}
    for task in plan.tasks if with_answers else ():
        settings = {**inputs, **config, "task": task, "limit": plan.limit_of_task(task)}
        found[task] = read_or_measure(
            folder, task, settings, functools.partial(measure_task, task), device=device
        )
    if with_nelbo:
        settings = {**inputs, "tasks": list(plan.tasks), "limit": plan.limit}
        found[NELBO] = read_or_measure(folder, NELBO, settings, measure_likelihood, device=device)
    return found


def read_or_measure(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    measure: Callable[[], Measurement],
    *,
    device: torch.device,
) -> Measurement:
    """Read the stored measurement with these settings; measure and store it if there is none.

    Args:
        folder: Measurements of one trained model.
        name: Test name.
        settings: Everything the scores depend on besides the model.
        measure: Function that measures.
        device: Device that it uses, for the record.
    """
    path = folder / f"{name}-{json_digest(settings)}.json"
    if not path.is_file():
        _write_measurement(path, settings, measure(), device)
    return _read_measurement(path)


def measure_nelbo(recipe: Recipe, export: Path, *, device: torch.device) -> Measurement:
    """Measure the NELBO of each test sample's answer under an exported model, in nats per token.

    Args:
        recipe: Recipe from `with_test_split`; its module takes the exported weights.
        export: Folder of an exported model.
        device: Device to measure on.

    Returns:
        Scores named `<modality>/nelbo_per_token`.

    Raises:
        OmniError: If the split has no samples.
    """
    module, data = build_module_and_data(recipe)
    module.backbone.load_state_dict(load_weights(export))
    module.eval().to(device)
    data.prepare_data()
    data.setup("test")
    names = module.vocab.modalities
    total = NelboPerToken(len(names))
    found: dict[int, Score] = {}
    for batch in data.test_dataloader():
        nats, tokens, modality = (x.cpu() for x in module.nelbo(batch.to(device)))
        has_answer = (modality >= 0).nonzero().squeeze(1)
        total.update(nats[has_answer], tokens[has_answer], modality[has_answer])
        for n in has_answer.tolist():
            metric = f"{names[int(modality[n])]}/{NELBO_PER_TOKEN}"
            found[int(batch.sample_index[n])] = Score({metric: (float(nats[n]), float(tokens[n]))})
    if not found:
        raise OmniError(
            f"no samples of tasks {list(data.tasks)} in '{data.test_split}' to measure the NELBO "
            "on; choose another split"
        )
    errors = zip(names, total.compute()[1].tolist(), strict=True)
    return Measurement(
        [str(index) for index in sorted(found)],
        [found[index] for index in sorted(found)],
        {f"{name}/{NELBO_PER_TOKEN}": error for name, error in errors if error == error},
        computation=computation_facts(module.backbone),
    )


def _write_measurement(
    path: Path, settings: dict[str, Any], measurement: Measurement, device: torch.device
) -> None:
    plain = {
        "settings": settings,
        "keys": measurement.keys,
        "metrics": [score.metrics for score in measurement.scores],
        "failures": [score.failure for score in measurement.scores],
        "errors": measurement.errors,
        "forwards": measurement.forwards,
        "seconds": measurement.seconds,
        **provenance(device),
        **(measurement.computation or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(plain) + "\n", encoding="utf-8")
    unfinished.rename(path)


def _read_measurement(path: Path) -> Measurement:
    plain = read_json_object(path, remedy="delete it and run the experiment again")
    scores = [
        Score({name: (top, bottom) for name, (top, bottom) in metrics.items()}, failure)
        for metrics, failure in zip(plain["metrics"], plain["failures"], strict=True)
    ]
    return Measurement(plain["keys"], scores, plain["errors"], plain["forwards"], plain["seconds"])
