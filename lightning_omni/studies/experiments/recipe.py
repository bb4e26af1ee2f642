"""From a recipe and an arm's settings to the one file that a training is run from."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_omni.errors import OmniError
from lightning_omni.recipe import read_recipe

Recipe = dict[str, Any]
SECTIONS = ("trainer", "data.init_args", "model.init_args")
DECIDED = (
    "seed_everything",
    "trainer.default_root_dir",
    "data.init_args.seed",
    "model.init_args.noise_seed",
)
"""Paths that an experiment decides itself."""


def load_recipe(path: Path) -> Recipe:
    """Read a recipe of the verb `fit`, the YAML files that it refers to put in their places.

    Raises:
        OmniError: If it is not such a recipe.
    """
    recipe = read_recipe(path)
    for section in SECTIONS:
        if not isinstance(_at(recipe, section), dict):
            raise OmniError(f"'{path}' has no section {section}; give a recipe of the verb `fit`")
    if not isinstance(_at(recipe, "trainer.default_root_dir"), str):
        raise OmniError(f"'{path}' has no trainer.default_root_dir; name the run's folder there")
    return recipe


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """A copy with these values at these dotted paths; a number picks an entry of a list.

    Raises:
        OmniError: If what would hold a value is not there, or an experiment decides it itself.
    """
    changed = copy.deepcopy(recipe)
    for path, value in settings.items():
        for decided in DECIDED:
            if f"{path}.".startswith(f"{decided}.") or decided.startswith(f"{path}."):
                raise OmniError(
                    f"`set` has '{path}', but an experiment decides '{decided}' itself; leave it "
                    "out, and name seeds under `seeds`"
                )
        parent, _, last = path.rpartition(".")
        holder = _at(changed, parent)
        if isinstance(holder, dict):
            holder[last] = copy.deepcopy(value)
        elif isinstance(holder, list) and last.isdigit() and int(last) < len(holder):
            holder[int(last)] = copy.deepcopy(value)
        else:
            raise OmniError(
                f"cannot set '{path}': the recipe has nothing named '{parent}' that could hold it; "
                "write the path as the recipe nests it"
            )
    return changed


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """A copy with this seed of weights, of the data's order, and of times and masks."""
    changed = copy.deepcopy(recipe)
    changed["seed_everything"] = seed
    changed["data"]["init_args"]["seed"] = seed
    changed["model"]["init_args"]["noise_seed"] = seed
    return changed


def starting_from(recipe: Recipe, export: Path) -> Recipe:
    """A copy that starts from exported weights."""
    changed = copy.deepcopy(recipe)
    changed["model"]["init_args"]["init_from"] = str(export)
    return changed


def in_folder(recipe: Recipe, folder: Path) -> Recipe:
    """A copy whose trainer writes into this folder what the recipe writes into its own."""
    own = recipe["trainer"]["default_root_dir"].rstrip("/")
    return {**recipe, "trainer": _moved(recipe["trainer"], own, str(folder))}


def digest(content: Any) -> str:
    """Name plain values by their content."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write it as YAML, in its own order."""
    path.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), "utf-8")


def _at(recipe: Recipe, path: str) -> Any:
    """What a recipe has at a dotted path; None if nothing."""
    here: Any = recipe
    for key in path.split(".") if path else ():
        if isinstance(here, list) and key.isdigit() and int(key) < len(here):
            here = here[int(key)]
        else:
            here = here.get(key) if isinstance(here, dict) else None
    return here


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {k: _moved(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [_moved(v, old, new) for v in value]
    if isinstance(value, str) and f"{value}/".startswith(f"{old}/"):
        return new + value[len(old) :]
    return value
