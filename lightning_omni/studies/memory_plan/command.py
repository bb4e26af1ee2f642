"""The `plan` verb: the costs of a recipe in words and as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from lightning_omni.data.image_data import ImageData
from lightning_omni.data.omni_data import OmniData
from lightning_omni.data.speech_data import SpeechData
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder
from lightning_omni.modules.image_tokenizer import ImageTokenizerModule
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.speech_tokenizer import SpeechTokenizerModule
from lightning_omni.studies.memory_plan.plan import plan_joint_model
from lightning_omni.studies.memory_plan.settings import PlanOptions, read_trainer_settings
from lightning_omni.studies.memory_plan.tokenizer_plan import plan_tokenizer
from lightning_omni.whole_files import write_text

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
        OmniError: If the recipe trains neither the joint model nor a tokenizer.
    """
    tokenizers = (ImageTokenizerModule, SpeechTokenizerModule)
    if isinstance(module, MaskedDiffusionModule) and isinstance(data, OmniData):
        made = plan_joint_model(module, data, read_trainer_settings(trainer), options)
        said = joint_plan_lines(made)
    elif isinstance(module, tokenizers) and isinstance(data, ImageData | SpeechData):
        made = plan_tokenizer(module, data, read_trainer_settings(trainer), options)
        said = tokenizer_plan_lines(made)
    else:
        raise OmniError(
            f"the recipe trains a {type(module).__name__} on {type(data).__name__}; plan a recipe "
            "of the joint model on OmniData, or of a tokenizer on ImageData or SpeechData"
        )
    for line in said:
        log.info("%s", line)
    if options.out is not None:
        make_folder(options.out.parent)
        write_text(options.out, json.dumps(made, indent=1) + "\n")
        log.info("wrote %s", options.out)
    return made


def joint_plan_lines(made: dict[str, Any]) -> list[str]:
    """Return a plan in words, with a table of memory."""
    states = made["optimizer_gb"]
    return [
        _parameters_line(made),
        f"step: {made['tokens_per_step']:,} tokens, {made['flops_per_step']:.3g} FLOP, "
        f"{made['flops_with_recomputation']:.3g} with what is recomputed; "
        f"{made['seconds_per_step']:.3g} s on {made['devices']} devices",
        _training_line(made),
        f"optimizer ({made['optimizer']}), all states: AdamW {states['fused_adamw']:.2f} GB, Muon "
        f"with AdamW {states['muon']:.2f} GB",
        *_memory_table_lines(made),
    ]


def tokenizer_plan_lines(made: dict[str, Any]) -> list[str]:
    """Return the plan of a tokenizer in words, with a table of memory."""
    return [
        _parameters_line(made),
        f"step: {made['samples_per_step']:,} samples, {made['flops_per_step']:.3g} FLOP; "
        f"{made['seconds_per_step']:.3g} s on {made['devices']} devices",
        _training_line(made),
        *_memory_table_lines(made),
    ]


def _parameters_line(made: dict[str, Any]) -> str:
    parts = made["parameters"]
    named = ", ".join(f"{name} {parts[name]:,}" for name in parts if name != "total")
    return f"parameters: {parts['total']:,} ({named})"


def _training_line(made: dict[str, Any]) -> str:
    days = f"{made['days']:.3g} days, {made['gpu_days']:.3g} GPU days"
    return f"training: {made['steps']:,} steps, {days}; time: {made['time_from']}"


def _memory_table_lines(made: dict[str, Any]) -> list[str]:
    """Return the table of memory and whether the recipe fits."""
    rows, usable = made["memory_gb"], made["usable_gb"]
    columns = [name for name in _COLUMNS if name in rows[made["recipe_is"]]]
    peak = rows[made["recipe_is"]]["peak"]
    verdict = f"the recipe ({made['recipe_is']}) needs {peak:.1f} GB of {usable:.1f} GB usable"
    return [
        f"memory of one of {made['devices']} devices, GB:",
        f"| | {' | '.join(columns)} |",
        "|" + "---|" * (len(columns) + 1),
        *(
            f"| {name} | " + " | ".join(f"{row[column]:.3g}" for column in columns) + " |"
            for name, row in rows.items()
        ),
        f"{verdict}: it fits" if made["fits"] else f"{verdict}: it does not fit; {made['advice']}",
    ]
