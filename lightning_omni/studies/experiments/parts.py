"""Build what a resolved recipe describes, without training it."""

from __future__ import annotations

import argparse
import copy
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentParser

from lightning_omni.callbacks.defaults import RUN_DEFAULTS, RunDefault
from lightning_omni.callbacks.export_omni import ExportOmni
from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError, sentence_behind
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.studies.experiments.recipe import Recipe
from lightning_omni.vocab import SHARED_SETTINGS

Parts = tuple[MaskedDiffusionModule, OmniData]


def check_recipe(recipe: Recipe) -> Parts:
    """Build a recipe's objects, its weights without memory, to learn of mistakes before training.

    Raises:
        OmniError: If an option is unknown or wrong, or the recipe does not export a joint model.
    """
    with torch.device("meta"):
        built = _built(recipe, _parser(with_trainer=True))
    parts = _joint(built)
    callbacks = built.trainer.callbacks or []
    is_named = any(isinstance(callback, ExportOmni) for callback in callbacks)
    if not is_named and "export" not in built.run_defaults:
        raise OmniError("nothing would be exported; add export to run_defaults")
    return parts


def build_parts(recipe: Recipe) -> Parts:
    """The module, freshly initialised, and the data of a recipe.

    Raises:
        OmniError: If an option is unknown or wrong, or they are not those of a joint model.
    """
    parts = {name: recipe[name] for name in ("data", "model")}
    return _joint(_built(parts, _parser(with_trainer=False)))


def _parser(*, with_trainer: bool) -> ArgumentParser:
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


def _built(recipe: Recipe, parser: ArgumentParser) -> Any:
    try:
        return parser.instantiate_classes(parser.parse_object(copy.deepcopy(recipe)))
    except (argparse.ArgumentError, TypeError, ValueError, OmniError) as error:
        raise OmniError(str(sentence_behind(error) or error)) from error


def _joint(built: Any) -> Parts:
    module, data = built.model, built.data
    if not (isinstance(module, MaskedDiffusionModule) and isinstance(data, OmniData)):
        raise OmniError(
            f"it trains a {type(module).__name__} on {type(data).__name__}, wanted a "
            "MaskedDiffusionModule on OmniData; give recipes of the joint model"
        )
    return module, data
