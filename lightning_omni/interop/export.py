"""`lightning_omni export`: a folder of ours as one to share, in our format or in Qwen2's."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning_omni.errors import OmniError, check_within
from lightning_omni.files import check_free, whole_folder
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
from lightning_omni.interop.native import copy_parts, read_weightless
from lightning_omni.interop.qwen2 import qwen2_config, require_qwen2
from lightning_omni.interop.shards_writer import copy_weights
from lightning_omni.modules.initial_weights import KNOWN_IDS
from lightning_omni.nn.transformer import Transformer
from lightning_omni.pretrained import CONFIG_FILE, Pretrained, resolve_pretrained
from lightning_omni.vocab import VOCAB_FILE, read_vocab

log = logging.getLogger(__name__)

Format = Literal["safetensors", "hf"]
_GIGABYTE = 10**9
_LEAST_SHARD = 1e-6


@dataclass(frozen=True, slots=True)
class _Layout:
    """How weights are written.

    Attributes:
        config: Text of `config.json`.
        rename: From our names; None leaves a weight out.
        metadata: For the header of each file.
        told: Lines for the card.
    """

    config: str
    rename: Callable[[str], str | None]
    metadata: dict[str, str]
    told: list[str]


def export_model(
    model: Path,
    format: Format,
    output: Path,
    shard_size: float = 5.0,
    push: str | None = None,
) -> None:
    """Write a model as a folder to share, with a card and checksums; it appears when complete.

    Weights are copied bit by bit, one at a time.

    Args:
        model: Folder that training or import wrote; `shipped` is the model of the package.
        format: `safetensors` is our own, with tokenizers and all; `hf` is the backbone alone in the
            layout of Qwen2 and Dream, for backbones of that shape.
        output: Folder to write; must not exist or be empty.
        shard_size: Weights beyond this many GB (10^9 bytes) are split, with an index.
        push: Repository `owner/name` to upload to; needs lightning_omni[hub].

    Raises:
        OmniError: If the folder is damaged or the backbone does not fit the format.
    """
    check_within("shard_size", shard_size, _LEAST_SHARD)
    if push is not None:
        check_repo(push, "--push")
    hub = open_hub("--push") if push is not None else None
    check_free(output)
    folder = resolve_pretrained(str(model))
    module = read_weightless(folder)
    files = weight_files(folder)
    stored = read_headers(files)
    match_weights(module, stored, str, str, about=f"'{folder}'")
    formats = {entry.format for entry in stored.values()}
    said = read_metadata(files[0])
    if format == "safetensors":
        layout = _ours(folder, said)
    else:
        layout = _qwen2(module, formats, folder, _token_ids(said, folder))
    names = {ours: [new] if (new := layout.rename(ours)) else [] for ours in stored}
    with whole_folder(output) as partial:
        (partial / CONFIG_FILE).write_text(layout.config)
        copy_weights(
            files,
            names,
            partial,
            shard_bytes=int(shard_size * _GIGABYTE),
            metadata=layout.metadata,
        )
        if format == "safetensors":
            copy_parts(folder, partial)
        write_card(folder, partial, layout=layout.told)
    log.info("wrote %s", output)
    if push is not None and hub is not None:
        push_folder(output, push, hub)


def _token_ids(said: dict[str, str], folder: Path) -> dict[str, int]:
    """Ids that Dream's `config.json` names: those of the import, or of the folder's vocabulary."""
    if (folder / VOCAB_FILE).is_file():
        vocab = read_vocab(folder / VOCAB_FILE)
        return {key: vocab.special(token) for key, token in KNOWN_IDS.items()}
    return {key: int(said[key]) for key in KNOWN_IDS if key in said}


def _ours(folder: Path, said: dict[str, str]) -> _Layout:
    told = [
        "Weights and tokenizers in the format of lightning_omni. If the weights are in shards, "
        "`lightning_omni import --from lightning_omni` joins them."
    ]
    return _Layout((folder / CONFIG_FILE).read_text("utf-8"), str, said, told)


def _qwen2(
    module: Pretrained, formats: set[str], folder: Path, token_ids: dict[str, int]
) -> _Layout:
    transformer = module.transformer if isinstance(module, Backbone) else module
    if not isinstance(transformer, Transformer):
        raise OmniError(
            f"'{folder}' holds a {type(module).__name__}, which cannot be written as hf, wanted a "
            "backbone; give --format safetensors"
        )
    require_qwen2(transformer, about=str(folder))
    is_right_shifted = transformer.right_shift_logits
    is_tied = bool(transformer.init_args["tie_embeddings"])

    def rename(ours: str) -> str | None:
        name = published_name(ours.removeprefix("transformer."))
        return None if is_tied and name.startswith("lm_head.") else name

    place = "i - 1 scores token i" if is_right_shifted else "i scores token i"
    told = [
        f"The backbone alone, its weights named as in {'Dream' if is_right_shifted else 'Qwen2'}. "
        f"Attention sees both directions, and the output at position {place}."
    ]
    config = qwen2_config(transformer, formats, right_shift_logits=is_right_shifted) | token_ids
    return _Layout(json.dumps(config, indent=2) + "\n", rename, {"format": "pt"}, told)
