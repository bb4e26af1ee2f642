"""Export a checkpoint, a file or a folder of shares, without the run it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import yaml
from torch import Tensor

from lightning_omni.callbacks.ema import AVERAGED
from lightning_omni.callbacks.export_omni import write_export
from lightning_omni.callbacks.run_record import RECORD, read_run_record
from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError
from lightning_omni.modules.checkpoint_file import (
    load_checkpoint_file,
    refuse_damaged_file,
    refuse_other_contents,
)
from lightning_omni.modules.checkpoint_folder import (
    Keys,
    is_checkpoint_folder,
    read_checkpoint_folder,
)
from lightning_omni.modules.finite_weights import check_weights_are_finite
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.recipe import CONFIG, find_config
from lightning_omni.tokenizers.base import Tokenizer

_OF_RECIPES = ("seed_everything", "trainer", "model", "data", "run_defaults")


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint rather than an exported model."""
    return is_checkpoint_folder(path) or (path.is_file() and path.suffix == ".ckpt")


def write_recipe_of_checkpoint(checkpoint: Path, recipe: Path) -> None:
    """Write the recipe of a checkpoint's run, which its last start wrote into its folder.

    Args:
        checkpoint: File or folder in the run's folder, or up to two folders below.
        recipe: File to write; settings of the verb `fit` alone are left out.

    Raises:
        OmniError: If there is no `config.yaml`.
    """
    for folder in list(checkpoint.absolute().parents)[:3]:
        if (config := find_config(folder)) is not None:
            settings = yaml.safe_load(config.read_text("utf-8"))
            kept = {name: settings[name] for name in _OF_RECIPES if name in settings}
            recipe.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
            return
    raise OmniError(
        f"no {CONFIG} of the run above '{checkpoint}', wanted the one that fit writes into "
        "trainer.default_root_dir; leave the checkpoint in that folder"
    )


def read_checkpoint_weights(checkpoint: Path) -> tuple[dict[str, Tensor], int]:
    """Return the weights of a checkpoint by name, averaged ones if it has any, and its step.

    The optimizer's states are not read from a folder.

    Raises:
        OmniError: If it is damaged.
    """
    if is_checkpoint_folder(checkpoint):
        read = read_checkpoint_folder(checkpoint, wanted=_is_weight, has_processes=False)
    else:
        refuse_damaged_file(checkpoint)
        read = load_checkpoint_file(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        refuse_other_contents(checkpoint, read)
    weights: dict[str, Tensor] = dict(read["state_dict"])
    for state in read.get("callbacks", {}).values():
        if isinstance(state, dict) and isinstance(state.get(AVERAGED), dict):
            weights |= state[AVERAGED]
    return weights, int(read["global_step"])


def export_checkpoint(checkpoint: Path, module: L.LightningModule, data: Any, output: Path) -> None:
    """Write a checkpoint's model as the end of its run would have written it.

    Args:
        checkpoint: File, or folder of shares.
        module: Module of the run's recipe; its weights are replaced.
        data: Data of the run's recipe.
        output: Folder to write.

    Raises:
        OmniError: If it is damaged, not finite, or of another model than the recipe's.
    """
    weights, steps = read_checkpoint_weights(checkpoint)
    check_weights_are_finite(weights, purpose="export")
    module.load_state_dict(weights)
    if isinstance(module, MaskedDiffusionModule) and isinstance(data, OmniData):
        data.setup("fit")
        starts = [entry for entry in _read_run_record(checkpoint) if entry["first_step"] < steps]
        write_export(output, module, data, weights, steps=steps, starts=starts)
        return
    tokenizer = getattr(module, "tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        raise OmniError(f"'{checkpoint}' is of a {type(module).__name__}, which has no export")
    tokenizer.save_pretrained(output)


def _read_run_record(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the entries of the record of a checkpoint's run, none if it has none."""
    folders = list(checkpoint.absolute().parents)[:3]
    return next((read_run_record(f / RECORD) for f in folders if (f / RECORD).is_file()), [])


def _is_weight(keys: Keys) -> bool:
    return keys[0] == "state_dict" or (keys[0] == "callbacks" and AVERAGED in keys)
