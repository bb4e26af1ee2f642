"""`lightning_omni shrink`: a model folder in half precision, to share."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from lightning_omni.errors import OmniError
from lightning_omni.files import SUMS_FILE, make_empty_folder, write_checksums
from lightning_omni.generation.model_folder import read_model_folder
from lightning_omni.pretrained import WEIGHTS_FILE, load_weights

log = logging.getLogger(__name__)

_LARGEST = float(torch.finfo(torch.float16).max)


def shrink(model: Path, out: Path) -> None:
    """Copy an exported model with its weights in half precision, and list checksums.

    Args:
        model: Folder that a stage exported.
        out: Folder to write; must not exist or be empty.

    Raises:
        OmniError: If `model` is no model, `out` is not empty, or a weight is too large.
    """
    read_model_folder(model)
    make_empty_folder(out)
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        target = out / path.relative_to(model)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name == WEIGHTS_FILE:
            save_file(_halved(path), target)
        elif path.name != SUMS_FILE:
            shutil.copyfile(path, target)
    written = sorted(p for p in out.rglob("*") if p.is_file())
    write_checksums(out)
    size = sum(p.stat().st_size for p in written)
    log.info("wrote %s: %d files, %.1f MB", out, len(written), size / 1e6)


def _halved(path: Path) -> dict[str, torch.Tensor]:
    halved = {}
    for name, tensor in load_weights(path.parent).items():
        if tensor.is_floating_point():
            if tensor.abs().max() > _LARGEST:
                raise OmniError(f"'{name}' in '{path}' has values beyond half precision")
            tensor = tensor.half()
        halved[name] = tensor
    return halved
