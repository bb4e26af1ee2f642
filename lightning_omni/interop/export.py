"""`lightning_omni export`: write a model folder to share, in our format or in that of Qwen2."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning_omni.argument_checks import check_within
from lightning_omni.errors import OmniError
from lightning_omni.files import check_folder_is_free, write_folder_atomically
from lightning_omni.generation.model_folder import read_model_folder
from lightning_omni.interop.backbone import Backbone
from lightning_omni.interop.card import write_card
from lightning_omni.interop.checkpoint import (
    match_weights,
    read_headers,
    read_metadata,
    weight_files,
)
from lightning_omni.interop.dream import published_name
from lightning_omni.interop.hub import check_repo, open_hub, push_folder
from lightning_omni.interop.native import build_meta_module_from_folder, copy_model_files
from lightning_omni.interop.qwen2 import check_qwen2_shape, qwen2_config
from lightning_omni.interop.shards_writer import copy_weights, written_format
from lightning_omni.modules.initial_weights import KNOWN_IDS
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import CONFIG_FILE, Pretrained, resolve_pretrained
from lightning_omni.vocab import VOCAB_FILE, read_vocab

log = logging.getLogger(__name__)

Format = Literal["safetensors", "hf"]
Dtype = Literal["float32", "bfloat16", "float16"]
_GIGABYTE = 10**9
_LEAST_SHARD = 1e-6


@dataclass(frozen=True, slots=True)
class _Layout:
    """How weights are written.

    Attributes:
        config: text of `config.json`.
        rename: published name of a weight; None leaves the weight out.
        metadata: header entries of each file.
        notes: lines for the model card.
    """

    config: str
    rename: Callable[[str], str | None]
    metadata: dict[str, str]
    notes: list[str]


def export_model(
    model: Path,
    format: Format,
    output: Path,
    shard_size: float = 5.0,
    dtype: Dtype | None = None,
    push: str | None = None,
) -> None:
    """Write a model as a folder to share, with a card and checksums.

    The folder appears when it is complete. One weight is in memory at a time; without `dtype`,
    weights are copied bit by bit.

    Args:
        model: Folder that training or import wrote, or a checkpoint in the folder of its run;
            `bundled` is the model of the package.
        format: `safetensors` is our own format, tokenizers included; `hf` is the backbone alone in
            the layout of Qwen2 and Dream, for backbones of that shape.
        output: Folder to write; must not exist or must be empty.
        shard_size: Largest size of a weights file in GB (10^9 bytes); larger weights are split.
        dtype: Format to convert weights to, those of tokenizers too; by default the stored one.
        push: Repository `owner/name` to upload to; needs lightning_omni[hub].

    Raises:
        OmniError: If the folder is damaged, the backbone does not fit the format, or a weight
            exceeds the range of `dtype`.
    """
    check_within("shard_size", shard_size, _LEAST_SHARD)
    if push is not None:
        check_repo(push, "--push")
    hub = open_hub("--push") if push is not None else None
    check_folder_is_free(output)
    folder = resolve_pretrained(str(model))
    module = build_meta_module_from_folder(folder)
    files = weight_files(folder)
    stored = read_headers(files)
    match_weights(module, stored, str, str, about=f"'{folder}'")
    if dtype is not None and (folder / VOCAB_FILE).is_file():
        read_model_folder(folder)  # a converted model is checked whole
    formats = {written_format(entry.format, dtype) for entry in stored.values()}
    metadata = read_metadata(files[0])
    if format == "safetensors":
        layout = _native_layout(folder, metadata)
    else:
        layout = _qwen2_layout(module, formats, folder, _token_ids(metadata, folder))
    names = {own: [new] if (new := layout.rename(own)) else [] for own in stored}
    with write_folder_atomically(output) as partial:
        (partial / CONFIG_FILE).write_text(layout.config, encoding="utf-8")
        copy_weights(
            files,
            names,
            partial,
            shard_bytes=int(shard_size * _GIGABYTE),
            metadata=layout.metadata,
            dtype=dtype,
        )
        if format == "safetensors":
            copy_model_files(folder, partial, dtype=dtype)
        write_card(folder, partial, layout=[*layout.notes, *_conversion_notes(dtype)])
    log.info("wrote %s", output)
    if push is not None and hub is not None:
        push_folder(output, push, hub)


def _conversion_notes(dtype: Dtype | None) -> list[str]:
    if dtype is None:
        return []
    return ["", f"Weights were converted to {dtype}; the evaluation below was made before."]


def _token_ids(metadata: dict[str, str], folder: Path) -> dict[str, int]:
    """Return ids that Dream's `config.json` names, from the vocabulary or the imported weights."""
    if (folder / VOCAB_FILE).is_file():
        vocab = read_vocab(folder / VOCAB_FILE)
        return {key: vocab.special_id(token) for key, token in KNOWN_IDS.items()}
    return {key: int(metadata[key]) for key in KNOWN_IDS if key in metadata}


def _native_layout(folder: Path, metadata: dict[str, str]) -> _Layout:
    notes = [
        "Weights and tokenizers in the format of lightning_omni. If the weights are in shards, "
        "`lightning_omni import --from lightning_omni` joins them."
    ]
    return _Layout((folder / CONFIG_FILE).read_text("utf-8"), str, metadata, notes)


def _qwen2_layout(
    module: Pretrained, formats: set[str], folder: Path, token_ids: dict[str, int]
) -> _Layout:
    transformer = module.transformer if isinstance(module, Backbone) else module
    if not isinstance(transformer, Transformer):
        raise OmniError(
            f"'{folder}' holds a {type(module).__name__}, which cannot be written as hf, wanted a "
            "backbone; give --format safetensors"
        )
    check_qwen2_shape(transformer, about=str(folder))
    is_right_shifted, is_causal = transformer.right_shift_logits, transformer.is_causal
    is_tied = bool(transformer.init_args["tie_embeddings"])

    def rename(own: str) -> str | None:
        name = published_name(own.removeprefix("transformer."))
        return None if is_tied and name.startswith("lm_head.") else name

    position = "i - 1 scores token i" if is_right_shifted else "i scores token i"
    name = "Dream" if is_right_shifted and not is_causal else "Qwen2"
    seen = "Attention is causal" if is_causal else "Attention sees both directions"
    notes = [
        f"The backbone alone, its weights named as in {name}. {seen}, and the output at position "
        f"{position}."
    ]
    config = qwen2_config(transformer, formats, right_shift_logits=is_right_shifted) | token_ids
    return _Layout(json.dumps(config, indent=2) + "\n", rename, {"format": "pt"}, notes)
