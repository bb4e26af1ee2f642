"""What an experiment compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError, check_within
from lightning_omni.generation.config import Sampling

MAX_TRAINING_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Arm:
    """How one side of an experiment is trained and sampled.

    Attributes:
        set: Values by dotted path, such as `model.init_args.weight_decay: 0.1`, put into each of
            the arm's recipes.
        sampling: How to sample, None for the defaults; arms that differ in nothing else share
            their trainings.
        recipes: Recipes of the verb `fit`, trained one after the other; None takes the
            experiment's.
    """

    set: dict[str, Any] = field(default_factory=dict)
    sampling: Sampling | None = None
    recipes: list[Path] | None = None


def check_arms(arms: Mapping[str, Arm], recipes: Sequence[Path], seeds: Sequence[int]) -> None:
    """Refuse what cannot be compared or trained.

    Raises:
        OmniError: If so.
    """
    if len(arms) < 2:
        given = f"only '{next(iter(arms))}'" if arms else "no arm"
        raise OmniError(f"an experiment compares arms, got {given}; name at least two under `arms`")
    if not seeds:
        raise OmniError("no seeds to train with; name at least one under `seeds`")
    for seed in seeds:
        check_within("seeds", seed, 0, MAX_TRAINING_SEED)
    if len(set(seeds)) < len(seeds):
        raise OmniError(f"seeds are {list(seeds)}, wanted each once; leave the repeated ones out")
    for name, arm in arms.items():
        for path in recipes_of(name, arm, recipes):
            if not path.is_file():
                raise OmniError(
                    f"arm '{name}': no recipe at '{path}'; give the path of a recipe of the verb "
                    "`fit`, from the current folder"
                )


def recipes_of(name: str, arm: Arm, recipes: Sequence[Path]) -> Sequence[Path]:
    """The arm's own recipes, else the experiment's.

    Raises:
        OmniError: If there are none.
    """
    chosen = recipes if arm.recipes is None else arm.recipes
    if not chosen:
        raise OmniError(
            f"arm '{name}' has no recipe to train; name one under `recipes`, of the experiment or "
            "of the arm"
        )
    return chosen
