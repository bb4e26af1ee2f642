"""Check an arm's recipes with its settings before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_omni.data.encode import ensure_codes
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.media import manifest_hash
from lightning_omni.pretrained import WEIGHTS_FILE, fingerprint, locate
from lightning_omni.studies.experiments.parts import Parts, check_recipe
from lightning_omni.studies.experiments.recipe import Recipe, digest, load_recipe, with_settings
from lightning_omni.studies.experiments.training import Stage
from lightning_omni.studies.experiments.variants import Arm, recipes_of


def arm_recipes(name: str, arm: Arm, recipes: Sequence[Path]) -> list[tuple[Path, Recipe, Parts]]:
    """The arm's recipes with its settings, and what they build.

    Raises:
        OmniError: If a setting or a recipe is wrong; the message names the arm and the recipe.
    """
    found = []
    for path in recipes_of(name, arm, recipes):
        try:
            recipe = with_settings(load_recipe(path), arm.set)
            found.append((path, recipe, check_recipe(recipe)))
        except OmniError as error:
            raise OmniError(f"arm '{name}', {path}: {error}") from error
    return found


def plan_stages(name: str, arm: Arm, recipes: Sequence[Path]) -> list[Stage]:
    """The arm's trainings without seeds; encodes the data if it is not yet.

    Raises:
        OmniError: If a recipe is wrong, or what it is to be trained from is not there.
    """
    stages: list[Stage] = []
    for path, recipe, parts in arm_recipes(name, arm, recipes):
        try:
            inputs = _inputs(parts, is_first=not stages)
        except OmniError as error:
            raise OmniError(f"arm '{name}', {path}: {error}") from error
        stages.append(Stage(path, recipe, inputs))
    return stages


def check_same_data(arms: dict[str, list[Stage]]) -> None:
    """Refuse arms that cannot be asked the same cases.

    Raises:
        OmniError: If the last recipes of two arms are of different data.
    """
    folders = {name: Path(s[-1].recipe["data"]["init_args"]["data"]) for name, s in arms.items()}
    first = next(iter(folders))
    for name, folder in folders.items():
        if manifest_hash(folder) != manifest_hash(folders[first]):
            raise OmniError(
                f"arm '{name}' ends on the data of '{folder}' and arm '{first}' on that of "
                f"'{folders[first]}', wanted the same cases for all; use one folder"
            )


def _inputs(parts: Parts, *, is_first: bool) -> str:
    """Name the data, the tokenizers and, in a first recipe, the weights it starts from."""
    module, data = parts
    codes = ensure_codes(
        data.data,
        image_tokenizer=data.image_tokenizer,
        speech_tokenizer=data.speech_tokenizer,
        continuous_speech=data.continuous_speech,
    )
    start = None
    if is_first and module.init_from is not None:
        folder = locate(module.init_from)
        if not (folder / WEIGHTS_FILE).is_file():
            raise OmniError(
                f"no weights to start from in '{folder}'; train them first, or set "
                "model.init_args.init_from to null"
            )
        start = fingerprint(folder)
    return digest([codes.name, start])
