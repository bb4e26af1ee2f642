"""The variants of an experiment, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_omni.argument_checks import check_within
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.omni_data import OmniData
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.provenance import manifest_hash
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.pretrained import WEIGHTS_FILE, fingerprint, resolve_pretrained
from lightning_omni.studies.experiments.recipe import (
    ModuleAndData,
    Recipe,
    check_recipe,
    json_digest,
    load_recipe,
    with_settings,
)
from lightning_omni.studies.experiments.training import StageRecipe

MAX_TRAINING_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting of an experiment: how its models are trained and sampled.

    Attributes:
        set: Recipe values by dotted path, such as `model.init_args.weight_decay: 0.1`; applied to
            each recipe of the variant.
        sampling: Sampling config, None for the defaults; variants that differ only here share their
            trainings.
        recipes: Recipes of the verb `fit`, trained one after the other; None for the recipes of
            the experiment.
    """

    set: dict[str, Any] = field(default_factory=dict)
    sampling: GenerationConfig | None = None
    recipes: list[Path] | None = None


def check_variants(
    variants: Mapping[str, Variant], recipes: Sequence[Path], seeds: Sequence[int]
) -> None:
    """Check that there is something to compare, and that seeds and recipe files are valid.

    Raises:
        OmniError: If not.
    """
    if len(variants) < 2:
        given = f"only '{next(iter(variants))}'" if variants else "no variant"
        raise OmniError(
            f"an experiment compares variants, got {given}; name at least two under `variants`"
        )
    if not seeds:
        raise OmniError("no seeds to train with; name at least one under `seeds`")
    for seed in seeds:
        check_within("seeds", seed, 0, MAX_TRAINING_SEED)
    if len(set(seeds)) < len(seeds):
        raise OmniError(f"seeds are {list(seeds)}, wanted each once; leave the repeated ones out")
    for name, variant in variants.items():
        for path in variant_recipes(name, variant, recipes):
            if not path.is_file():
                raise OmniError(
                    f"variant '{name}': no recipe at '{path}'; give the path of a recipe of the "
                    "verb `fit`, from the current folder"
                )


def variant_recipes(name: str, variant: Variant, recipes: Sequence[Path]) -> Sequence[Path]:
    """Return the variant's recipes, or those of the experiment.

    Raises:
        OmniError: If there are none.
    """
    chosen = recipes if variant.recipes is None else variant.recipes
    if not chosen:
        raise OmniError(
            f"variant '{name}' has no recipe to train; name one under `recipes`, of the experiment "
            "or of the variant"
        )
    return chosen


def resolve_recipes(
    name: str, variant: Variant, recipes: Sequence[Path]
) -> list[tuple[Path, Recipe, ModuleAndData]]:
    """Return each recipe file with its settings applied and the objects it builds.

    Raises:
        OmniError: If a setting or a recipe is wrong; the message names the variant and the recipe.
    """
    resolved = []
    for path in variant_recipes(name, variant, recipes):
        try:
            recipe = with_settings(load_recipe(path), variant.set)
            resolved.append((path, recipe, check_recipe(recipe)))
        except OmniError as error:
            raise OmniError(f"variant '{name}', {path}: {error}") from error
    return resolved


def plan_stages(name: str, variant: Variant, recipes: Sequence[Path]) -> list[StageRecipe]:
    """Return the variant's training stages; data that is not encoded yet is encoded.

    Raises:
        OmniError: If a recipe is wrong, or its data or initial weights are missing.
    """
    stages: list[StageRecipe] = []
    for path, recipe, module_and_data in resolve_recipes(name, variant, recipes):
        try:
            inputs = _inputs_digest(*module_and_data, is_first=not stages)
        except OmniError as error:
            raise OmniError(f"variant '{name}', {path}: {error}") from error
        stages.append(StageRecipe(path, recipe, inputs))
    return stages


def check_same_data(stages: Mapping[str, Sequence[StageRecipe]]) -> None:
    """Check that the last recipes of all variants use the same data, hence the same examples.

    Args:
        stages: Training stages by variant.

    Raises:
        OmniError: If two variants end on different data.
    """
    folders = {
        n: parse_location(s[-1].recipe["data"]["init_args"]["data"]) for n, s in stages.items()
    }
    first = next(iter(folders))
    for name, folder in folders.items():
        if manifest_hash(folder) != manifest_hash(folders[first]):
            raise OmniError(
                f"variant '{name}' ends on the data of '{folder}' and variant '{first}' on that of "
                f"'{folders[first]}', wanted the same examples for all; use one folder"
            )


def _inputs_digest(module: MaskedDiffusionModule, data: OmniData, *, is_first: bool) -> str:
    """Return a digest of the data, the tokenizers and, in a first stage, the initial weights."""
    codes = ensure_codes(data.encoding_settings())
    start = None
    if is_first and module.init_from is not None:
        folder = resolve_pretrained(module.init_from)
        if not (folder / WEIGHTS_FILE).is_file():
            raise OmniError(
                f"no weights to start from in '{folder}'; train them first, or set "
                "model.init_args.init_from to null"
            )
        start = fingerprint(folder)
    return json_digest([codes.name, start])
