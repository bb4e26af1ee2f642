"""Resolve a training recipe with a variant's settings, and build the objects it describes."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_omni.callbacks.defaults import RUN_DEFAULTS, RunDefault
from lightning_omni.callbacks.export_omni import ExportOmni
from lightning_omni.callbacks.precision_plugin import take_rule_from_recipe
from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError, find_user_error
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.old_names import rename_path
from lightning_omni.recipe import read_recipe
from lightning_omni.vocab import SHARED_SETTINGS

Recipe = dict[str, Any]
ModuleAndData = tuple[MaskedDiffusionModule, OmniData]
SECTIONS = ("trainer", "data.init_args", "model.init_args")
RESERVED = (
    "seed_everything",
    "trainer.default_root_dir",
    "data.init_args.seed",
    "model.init_args.noise_seed",
)
"""Paths that the experiment sets itself."""


def load_recipe(path: Path) -> Recipe:
    """Read a recipe of the verb `fit` and inline the YAML files it refers to.

    Raises:
        OmniError: If the file is not such a recipe.
    """
    recipe = read_recipe(path)
    for section in SECTIONS:
        if not isinstance(_find_value(recipe, section), dict):
            raise OmniError(f"'{path}' has no section {section}; give a recipe of the verb `fit`")
    if not isinstance(_find_value(recipe, "trainer.default_root_dir"), str):
        raise OmniError(f"'{path}' has no trainer.default_root_dir; name the run's folder there")
    return recipe


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return a copy with values set at dotted paths; a number selects an entry of a list.

    Raises:
        OmniError: If a path leads nowhere, to an argument that no longer exists, or to a value that
            the experiment sets itself.
    """
    changed = copy.deepcopy(recipe)
    for given, value in settings.items():
        path = rename_path(given)
        for reserved in RESERVED:
            if f"{path}.".startswith(f"{reserved}.") or reserved.startswith(f"{path}."):
                raise OmniError(
                    f"`set` has '{path}', but an experiment decides '{reserved}' itself; leave it "
                    "out, and name seeds under `seeds`"
                )
        parent, _, last = path.rpartition(".")
        holder = _find_value(changed, parent)
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
    """Return a copy with one seed for initial weights, data order and diffusion noise."""
    changed = copy.deepcopy(recipe)
    changed["seed_everything"] = seed
    changed["data"]["init_args"]["seed"] = seed
    changed["model"]["init_args"]["noise_seed"] = seed
    return changed


def with_initial_weights(recipe: Recipe, export: Path) -> Recipe:
    """Return a copy that starts from an exported model."""
    changed = copy.deepcopy(recipe)
    changed["model"]["init_args"]["init_from"] = str(export)
    return changed


def with_output_folder(recipe: Recipe, folder: Path) -> Recipe:
    """Return a copy whose trainer writes into `folder` instead of the recipe's own folder."""
    old = recipe["trainer"]["default_root_dir"].rstrip("/")
    return {**recipe, "trainer": _replace_root(recipe["trainer"], old, str(folder))}


def with_test_split(
    recipe: Recipe, *, tasks: Sequence[str], split: str, limit: int, seed: int
) -> Recipe:
    """Return a copy of a recipe that tests on the first samples of each task.

    Args:
        recipe: Training recipe.
        tasks: Tasks to test.
        split: Data split.
        limit: Samples per task.
        seed: Seed of the masks.
    """
    changed = copy.deepcopy(recipe)
    data, model = changed["data"]["init_args"], changed["model"]["init_args"]
    data.update(tasks=dict.fromkeys(tasks, 1.0), test_split=split, val_samples=limit)
    model.update(noise_seed=seed, init_from=None)
    return changed


@torch.inference_mode()
def json_digest(content: Any) -> str:
    """Return a short hash of JSON content."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML, keeping its order."""
    path.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), "utf-8")


def check_recipe(recipe: Recipe) -> ModuleAndData:
    """Build a recipe's objects on the meta device, so that mistakes show before training.

    Raises:
        OmniError: If an option is unknown or wrong, or the recipe exports no joint model.
    """
    with torch.device("meta"):
        built = _instantiate(recipe, _make_parser(with_trainer=True))
    module_and_data = _require_joint_model(built)
    callbacks = built.trainer.callbacks or []
    is_named = any(isinstance(callback, ExportOmni) for callback in callbacks)
    if not is_named and "export" not in built.run_defaults:
        raise OmniError("nothing would be exported; add export to run_defaults")
    return module_and_data


def build_module_and_data(recipe: Recipe) -> ModuleAndData:
    """Build a recipe's data and its module, freshly initialised.

    Raises:
        OmniError: If an option is unknown or wrong, or the recipe trains no joint model.
    """
    sections = {name: recipe[name] for name in ("data", "model")}
    return _require_joint_model(_instantiate(sections, _make_parser(with_trainer=False)))


def _find_value(recipe: Recipe, path: str) -> Any:
    """Return the value at a dotted path, None if there is none."""
    here: Any = recipe
    for key in path.split(".") if path else ():
        if isinstance(here, list) and key.isdigit() and int(key) < len(here):
            here = here[int(key)]
        else:
            here = here.get(key) if isinstance(here, dict) else None
    return here


def _replace_root(value: Any, old: str, new: str) -> Any:
    """Replace the folder `old` by `new` in every path below a value."""
    if isinstance(value, dict):
        return {k: _replace_root(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [_replace_root(v, old, new) for v in value]
    if isinstance(value, str) and f"{value}/".startswith(f"{old}/"):
        return new + value[len(old) :]
    return value


def _make_parser(*, with_trainer: bool) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    if with_trainer:
        parser.add_argument("--seed_everything", type=bool | int)
        parser.add_argument("--run_defaults", type=list[RunDefault], default=list(RUN_DEFAULTS))
        parser.add_class_arguments(L.Trainer, "trainer", fail_untyped=False, instantiate=False)
    kinds = {"model": L.LightningModule, "data": L.LightningDataModule}
    for name, kind in kinds.items():
        parser.add_subclass_arguments(kind, name, fail_untyped=False, required=True)
    for name in SHARED_SETTINGS:
        parser.link_arguments(f"data.init_args.{name}", f"model.init_args.{name}")
    return parser


def _instantiate(recipe: Recipe, parser: ArgumentParser) -> Any:
    plain = copy.deepcopy(recipe)
    take_rule_from_recipe(plain.get("trainer"))  # what builds a trainer from it is the verb `fit`
    try:
        return parser.instantiate_classes(parser.parse_object(plain))
    except (argparse.ArgumentError, TypeError, ValueError, OmniError) as error:
        raise OmniError(str(find_user_error(error) or error)) from error


def _require_joint_model(built: Any) -> ModuleAndData:
    module, data = built.model, built.data
    if not (isinstance(module, MaskedDiffusionModule) and isinstance(data, OmniData)):
        raise OmniError(
            f"it trains a {type(module).__name__} on {type(data).__name__}, wanted a "
            "MaskedDiffusionModule on OmniData; give recipes of the joint model"
        )
    return module, data
