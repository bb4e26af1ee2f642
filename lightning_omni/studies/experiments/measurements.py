"""Measure one trained model: its answers by the evaluation's judges, and its bound."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from lightning_omni.evaluation.asking import ask, cases_of
from lightning_omni.evaluation.media import manifest_hash
from lightning_omni.evaluation.run import prepare
from lightning_omni.evaluation.suite import Plan, Suite
from lightning_omni.generation.config import Sampling
from lightning_omni.generation.omni import Omni
from lightning_omni.generation.plain_sampling import to_plain
from lightning_omni.pretrained import fingerprint
from lightning_omni.studies.experiments.bound import for_test, measure_bound
from lightning_omni.studies.experiments.measured import Measured, kept
from lightning_omni.studies.experiments.parts import build_parts
from lightning_omni.studies.experiments.training import Training

log = logging.getLogger(__name__)
BOUND = "bound"


def measure(
    training: Training, sampling: Sampling, plan: Plan, *, with_bound: bool
) -> dict[str, Measured]:
    """Measure what is not kept yet beside a finished training, and return all by task.

    Args:
        training: Its export is measured.
        sampling: How to sample answers.
        plan: Tasks, one split, limits and seed; the same cases for every model.
        with_bound: Also the bound, on the first `plan.limit` samples of each task.

    Raises:
        OmniError: If a task has no cases, or no answer can be had.
    """
    data, export = Path(training.recipe["data"]["init_args"]["data"]), training.export
    (split,) = plan.splits
    asked = {
        "model": fingerprint(export),
        "manifest": manifest_hash(data),
        "split": split,
        "seed": plan.seed,
    }

    @functools.cache
    def loaded() -> tuple[Omni, Suite]:
        hears = None
        if training.recipe["data"]["init_args"].get("continuous_speech") is not None:
            hears = build_parts(training.recipe)[1].continuous_speech
        return prepare(export, data, plan.tasks, hears)

    def answered(task: str) -> Measured:
        log.info("measuring %s of '%s'", task, export)
        omni, suite = loaded()
        cases = cases_of(suite, plan, task)
        found = ask(omni, suite, plan, task, cases, sampling)
        keys = [case.sample.key for case in cases]
        return Measured(keys, found.outcomes, {}, found.forwards, found.seconds)

    def bounded() -> Measured:
        log.info("measuring the bound of '%s'", export)
        recipe = for_test(
            training.recipe, tasks=plan.tasks, split=split, limit=plan.limit, seed=plan.seed
        )
        return measure_bound(recipe, export)

    home = training.folder / "measured"
    way = {"sampling": to_plain(sampling), "batch_size": plan.batch_size}
    found = {}
    for task in plan.tasks:
        question = {**asked, **way, "task": task, "limit": plan.limit_of(task)}
        found[task] = kept(home, task, question, functools.partial(answered, task))
    if with_bound:
        question = {**asked, "tasks": list(plan.tasks), "limit": plan.limit}
        found[BOUND] = kept(home, BOUND, question, bounded)
    return found
