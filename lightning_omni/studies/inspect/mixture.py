"""What a recipe sees of a data folder: shares of tasks, passes over the data, packed rows."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ArgumentParser

from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError
from lightning_omni.recipe import read_recipe
from lightning_omni.types import Batch

_BATCHES = 32


@dataclass(frozen=True, slots=True)
class TaskShare:
    """Part of a task in the training stream.

    Attributes:
        task: Name of the task.
        share: Share of the samples, as the recipe states it.
        samples: Training samples.
        token_share: Share of the tokens, measured on the first batches.
        passes: How often the run goes over the task's samples; None if the recipe has no end.
    """

    task: str
    share: float
    samples: int
    token_share: float
    passes: float | None


def build_recipe_data(recipe: Path, data: str) -> tuple[OmniData, dict[str, Any]]:
    """Return the data module of a recipe, on other data, and the recipe.

    Raises:
        OmniError: If the recipe is none of the joint model.
    """
    plain = read_recipe(recipe)
    section = plain.get("data", {})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningDataModule, "data")
    section = json.loads(json.dumps(section))
    section.setdefault("init_args", {})["data"] = data
    module = parser.instantiate_classes(parser.parse_object({"data": section})).data
    if not isinstance(module, OmniData):
        raise OmniError(
            f"'{recipe}' is a recipe of {section.get('class_path')}; give one of the joint model"
        )
    return module, plain


def read_first_batches(data: OmniData) -> list[Batch]:
    """Return the first packed batches of a recipe's training stream."""
    loader = data.train_dataloader()
    found = list(islice(loader.stream, _BATCHES))
    for one in found:
        if one.error is not None:
            raise OmniError(one.error)
    return [one.batch for one in found]


def compute_task_shares(
    data: OmniData, recipe: dict[str, Any], batches: list[Batch]
) -> list[TaskShare]:
    """Return the part of each task in the stream of a recipe on one device."""
    names = list(data.tasks)
    samples, tokens = Counter[str](), Counter[str]()
    for batch in batches:
        for length, task in zip(batch.lengths, batch.host_tasks, strict=True):
            if task >= 0:
                name = data.manifest["tasks"][task]
                samples[name] += 1
                tokens[name] += length
    readers = data.mixture().make_readers()
    trainer = recipe.get("trainer", {})
    steps = int(trainer.get("max_steps") or -1)
    updates = steps * int(trainer.get("accumulate_grad_batches") or 1)
    total, all_tokens = sum(data.tasks.values()), sum(tokens.values())
    found = []
    for name in names:
        stored = readers[name].order.num_samples
        drawn = sum(samples.values()) / len(batches) * updates * data.tasks[name] / total
        passes = drawn / stored if steps > 0 else None
        share = data.tasks[name] / total
        found.append(TaskShare(name, share, stored, tokens[name] / all_tokens, passes))
    return found
