"""The `plan` verb: the costs of a recipe in words and as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.studies.memory_plan.plan import make_plan
from lightning_omni.studies.memory_plan.settings import PlanOptions, read_settings

log = logging.getLogger(__name__)
_COLUMNS = ("weights", "gradients", "optimizer", "ema", "exchange", "activations", "loss", "peak")


def plan(
    module: object, data: object, trainer: Mapping[str, Any], options: PlanOptions
) -> dict[str, Any]:
    """Log the plan of a recipe, and write it as JSON if `options.out` is given.

    Args:
        module: Module of the recipe, on the meta device.
        data: Datamodule of the recipe.
        trainer: Trainer settings as plain values.
        options: Options of the verb.

    Raises:
        OmniError: If the recipe does not train the joint model.
    """
    if not (isinstance(module, MaskedDiffusionModule) and isinstance(data, OmniData)):
        raise OmniError(
            f"the recipe trains a {type(module).__name__}, wanted a MaskedDiffusionModule on "
            "OmniData; plan a recipe of the joint model"
        )
    made = make_plan(module, data, read_settings(trainer), options)
    for line in lines(made):
        log.info("%s", line)
    if options.out is not None:
        make_folder(options.out.parent)
        options.out.write_text(json.dumps(made, indent=1) + "\n")
        log.info("wrote %s", options.out)
    return made


def lines(made: dict[str, Any]) -> list[str]:
    """Return a plan in words, with a table of memory."""
    parts = made["parameters"]
    named = ", ".join(f"{name} {parts[name]:,}" for name in parts if name != "total")
    states = made["optimizer_gb"]
    table = [
        f"| {name} | " + " | ".join(f"{row[column]:.3g}" for column in _COLUMNS) + " |"
        for name, row in made["memory_gb"].items()
    ]
    peak = made["memory_gb"][made["recipe_is"]]["peak"]
    verdict = f"the recipe ({made['recipe_is']}) needs {peak:.1f} GB of {made['usable_gb']:.1f} GB"
    return [
        f"parameters: {parts['total']:,} ({named})",
        f"step: {made['tokens_per_step']:,} tokens, {made['flops_per_step']:.3g} FLOP, "
        f"{made['flops_with_recomputation']:.3g} with what is recomputed; "
        f"{made['seconds_per_step']:.3g} s on {made['devices']} devices",
        f"training: {made['steps']:,} steps, {made['days']:.3g} days",
        f"optimizer ({made['optimizer']}), all states: AdamW {states['fused_adamw']:.2f} GB, Muon "
        f"with AdamW {states['muon']:.2f} GB",
        f"memory of one of {made['devices']} devices, GB:",
        f"| | {' | '.join(_COLUMNS)} |",
        "|" + "---|" * (len(_COLUMNS) + 1),
        *table,
        f"{verdict} usable: it fits"
        if made["fits"]
        else f"{verdict} usable: it does not fit; {made['advice']}",
    ]
