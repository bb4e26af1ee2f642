"""Folders in our own format: the module they describe, and the files beside its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.interop.checkpoint import INDEX
from lightning_omni.interop.meta_init import WithoutWeights
from lightning_omni.pretrained import CONFIG_FILE, Pretrained, build

_KINDS = (".json", ".tiktoken", ".safetensors")


def read_module(folder: Path) -> Pretrained:
    """Build what a folder's `config.json` describes, with weights of its own.

    Raises:
        OmniError: If it describes no module of ours.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise OmniError(f"no {CONFIG_FILE} in '{folder}'; give a folder that training exported")
    config = read_json_object(path, remedy="export the model again")
    if "class_path" not in config:
        raise OmniError(f"'{path}' describes no model of ours; import the checkpoint first")
    try:
        module = build(config)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise OmniError(f"'{path}' describes no module of this version ({error})") from error
    if not isinstance(module, Pretrained):
        raise OmniError(f"'{path}' describes a {type(module).__name__}, wanted a model")
    return module


def read_weightless(folder: Path) -> Pretrained:
    """The same with shapes alone."""
    with WithoutWeights():
        return read_module(folder)


def copy_parts(source: Path, target: Path) -> None:
    """Copy what belongs to a model beside its weights: vocabulary, lengths, tokenizers.

    Those are JSON, text ranks and safetensors in the folder and in the folders inside it; hidden
    files and all others stay behind.
    """
    for path in (*source.glob("[!.]*"), *source.glob("[!.]*/[!.]*")):
        inner = path.relative_to(source)
        is_weight = path.parent == source and path.suffix == ".safetensors"
        if is_weight or str(inner) in (CONFIG_FILE, INDEX):
            continue
        if path.is_file() and path.suffix in _KINDS:
            (target / inner).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target / inner)
