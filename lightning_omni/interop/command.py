"""`lightning_omni import`: a published checkpoint becomes a folder of ours."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lightning_omni.errors import OmniError
from lightning_omni.files import make_empty_folder
from lightning_omni.interop.backbone import load_backbone
from lightning_omni.interop.image_tokenizer import load_image_tokenizer
from lightning_omni.pretrained import Pretrained

log = logging.getLogger(__name__)

Kind = Literal["dream", "omni-diffusion", "qwen2", "magvitv2"]


def import_checkpoint(kind: Kind, input: Path, output: Path) -> None:
    """Read a checkpoint as a hub lays it out and write it in our own format.

    The output appears when it is complete. The speech encoder and projector of Omni-Diffusion are
    left out.

    Args:
        kind: What it is; `--from` means the same.
        input: Folder with safetensors and `config.json`.
        output: Folder to write; must not exist or be empty.

    Raises:
        OmniError: If something is missing, damaged or does not fit.
    """
    load: Callable[[Path], Pretrained] = load_backbone
    if kind == "magvitv2":
        load = _image_tokenizer
    make_empty_folder(output)
    module = load(input)
    partial = output.with_name(output.name + ".partial")
    if partial.exists():
        raise OmniError(f"'{partial}' is left of an import that was stopped; delete it")
    try:
        module.save_pretrained(partial)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OmniError(
            f"cannot write '{partial}' ({error.strerror}); is the disk full?"
        ) from error
    output.rmdir()
    partial.rename(output)
    count = sum(p.numel() for p in module.parameters())
    log.info("wrote %s: %s parameters", output, f"{count:,}")


def _image_tokenizer(path: Path) -> Pretrained:
    return load_image_tokenizer(path).tokenizer
