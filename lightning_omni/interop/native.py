"""Folders in our own format: the module they describe and the files beside its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.interop.checkpoint import INDEX, read_headers, read_metadata
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.interop.shards_writer import copy_weights
from lightning_omni.pretrained import CONFIG_FILE, WEIGHTS_FILE, Pretrained, build_module

_KINDS = (".json", ".tiktoken", ".safetensors")


def build_module_from_folder(folder: Path) -> Pretrained:
    """Build the module that a folder's `config.json` describes, newly initialised.

    Raises:
        OmniError: If it describes no module of this package.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise OmniError(f"no {CONFIG_FILE} in '{folder}'; give a folder that training exported")
    config = read_json_object(path, remedy="export the model again")
    if "class_path" not in config:
        raise OmniError(f"'{path}' describes no model of this package; import the checkpoint first")
    try:
        module = build_module(config)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise OmniError(f"'{path}' describes no module of this version ({error})") from error
    if not isinstance(module, Pretrained):
        raise OmniError(f"'{path}' describes a {type(module).__name__}, wanted a model")
    return module


def build_meta_module_from_folder(folder: Path) -> Pretrained:
    """Build the module that a folder's `config.json` describes on the meta device."""
    with MetaInit():
        return build_module_from_folder(folder)


def copy_model_files(source: Path, target: Path, *, dtype: str | None = None) -> None:
    """Copy the files of a model beside its weights: vocabulary, lengths and tokenizers.

    Those are JSON, text ranks and safetensors in the folder and one level below; hidden files and
    all others are left out.

    Args:
        source: folder of the model.
        target: folder to write into.
        dtype: format that the weights of tokenizers are converted to; None copies them.
    """
    for path in (*source.glob("[!.]*"), *source.glob("[!.]*/[!.]*")):
        inner = path.relative_to(source)
        is_weight = path.parent == source and path.suffix == ".safetensors"
        if is_weight or str(inner) in (CONFIG_FILE, INDEX):
            continue
        if path.is_file() and path.suffix in _KINDS:
            (target / inner).parent.mkdir(exist_ok=True)
            if dtype is not None and path.name == WEIGHTS_FILE:
                names = {name: [name] for name in read_headers([path])}
                metadata = read_metadata(path)
                copy_weights([path], names, (target / inner).parent, metadata=metadata, dtype=dtype)
            else:
                shutil.copyfile(path, target / inner)
