"""The verb `encode`: reads a recipe for its data folder and tokenizers, without its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache, partial
from typing import Any

import lightning as L
from jsonargparse import ArgumentParser

from lightning_omni.cli_help import ENCODE, verb_options
from lightning_omni.cli_options import argument_names_in, inline_recipes
from lightning_omni.cli_trainer import OmniCLI
from lightning_omni.data.encoding.command import encode
from lightning_omni.data.encoding.options import EncodeOptions
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError


class _RecipeData(OmniCLI):
    """Parses a whole recipe and builds nothing but its data module."""

    datamodule: L.LightningDataModule

    def _set_seed(self) -> None:
        """Set none, in no process: nothing is drawn."""

    def instantiate_classes(self) -> None:
        """Build the data module."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(L.LightningDataModule, "data")
        section = {"data": self.config.data.as_dict()}
        self.datamodule = parser.instantiate_classes(parser.parse_object(section)).data


def encode_recipe(args: Sequence[str]) -> None:
    """Encode the data of a recipe.

    Args:
        args: Arguments behind the verb.

    Raises:
        OmniError: If the recipe or an option is wrong, or something is missing or damaged.
    """
    config = _parse_recipe(tuple(args)).config
    options = EncodeOptions(**{f.name: config[f.name] for f in fields(EncodeOptions)})
    encode(partial(encoding_settings_of_recipe, tuple(args)), options)


def encoding_settings_of_recipe(args: tuple[str, ...]) -> EncodingSettings:
    """Return the data folder and tokenizers of a recipe.

    Raises:
        OmniError: If the recipe is none of the joint model.
    """
    data = _parse_recipe(args).datamodule
    if not isinstance(data, OmniData):
        raise OmniError(
            f"the recipe's data are {type(data).__name__}; give a recipe of the joint model, such "
            "as recipes/stage2.yaml, whose media are encoded"
        )
    return data.encoding_settings()


@lru_cache(maxsize=1)
def _parse_recipe(args: tuple[str, ...]) -> Any:
    inlined = inline_recipes(ENCODE, args)
    known = [*(option.name for option in verb_options(ENCODE)), *argument_names_in(inlined)]
    return _RecipeData(inlined, known, run=False, with_trainer=False, options=EncodeOptions)
