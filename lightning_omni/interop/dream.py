"""Read Dream, Qwen2 and Qwen3 checkpoint folders into our transformer."""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.files import is_json_integer, read_json_object
from lightning_omni.interop.checkpoint import (
    FLOATS,
    Rename,
    StoredTensor,
    abbreviate_names,
    are_tables_equal,
    load_module,
    read_headers,
    weight_files,
)
from lightning_omni.interop.family import Family, read_family
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.nn.transformer import Transformer

log = logging.getLogger(__name__)

_PROJECTOR = "model.audio_projection."
_RENAMED = (
    (f"{_PROJECTOR}pre_proj_layernorm.", "feature_projector.norm."),
    (f"{_PROJECTOR}mlp.0.", "feature_projector.into."),
    (f"{_PROJECTOR}mlp.2.", "feature_projector.out."),
    ("model.embed_tokens.", "embedding.tokens."),
    ("lm_head.", "embedding.head."),
    ("model.norm.", "norm."),
    ("model.layers.", "blocks."),
    (".self_attn.", ".attention."),
    (".mlp.", ".ffn."),
    (".input_layernorm.", ".attention_norm."),
    (".post_attention_layernorm.", ".ffn_norm."),
)
_ENCODER = "model.audio_model."
_SIZES = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "intermediate_size": 2**22,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**12,
}
"""Sizes that a `config.json` must state, and the largest that are accepted."""
_MOST_HEAD_DIM = 2**12


def read_config(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's `config.json`.

    Raises:
        OmniError: If it is missing or damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise OmniError(f"no config.json in '{folder}'; give the folder of a checkpoint")
    return read_json_object(path, remedy="copy the checkpoint again")


def load_dream(folder: str | Path) -> Transformer:
    """Load the backbone in a Hugging Face style folder of `model_type` Dream, qwen2 or qwen3.

    The output of Dream networks at position i - 1 scores token i, and is returned so; that of
    next-token models is shifted by `right_shift_logits`. A speech encoder among the weights is
    skipped, which is logged; its projector is kept. Weights keep their stored format.

    Raises:
        OmniError: If files are missing, a setting is not supported or the weights do not fit.

    Source: Dream 7B, arXiv:2508.15487.
    """
    folder = Path(folder)
    files = weight_files(folder)
    stored = read_headers(files)
    model = build_dream_on_meta(folder, stored)
    load_module(model, files, make_renaming(model), published_name, about=f"'{folder}'")
    check_dream_weights(model, stored, about=f"'{folder}'")
    log_skipped_encoder(stored, about=f"'{folder}'")
    return model.eval()


def build_dream_on_meta(folder: Path, stored: Mapping[str, StoredTensor]) -> Transformer:
    """Build the network that a folder's `config.json` describes on the meta device.

    It has a projector of continuous features if the weights hold one, as the file does not say.
    Without a head among the weights the tables are tied, as some copies of tied models deny.

    Raises:
        OmniError: If the file is missing or damaged, or a setting is not supported.
    """
    config = read_config(folder)
    family = read_family(config, folder)
    args = transformer_args(config, family, about=str(folder / "config.json"))
    if family.is_causal and "lm_head.weight" not in stored and not args["tie_embeddings"]:
        log.info("'%s' has no head, so it is tied to the embeddings", folder)
        args["tie_embeddings"] = True
    if family.is_causal:
        log.info(
            "'%s' holds next-token weights: causal attention, logits of the next token", folder
        )
    with MetaInit():
        return Transformer(
            config["vocab_size"],
            [],
            **args,
            right_shift_logits=family.is_causal,
            continuous_dim=_read_feature_dim(stored),
            is_causal=family.is_causal,
        )


def _read_feature_dim(stored: Mapping[str, StoredTensor]) -> int | None:
    """Return the width of features that a stored projector takes."""
    shapes = {_add_model_prefix(name): entry.shape for name, entry in stored.items()}
    for name in ("pre_proj_layernorm.weight", "mlp.0.weight"):
        if shape := shapes.get(_PROJECTOR + name):
            return shape[-1]
    return None


def check_dream_weights(
    model: Transformer, stored: Mapping[str, StoredTensor], *, about: str
) -> None:
    """Refuse weights that fit a network by name and shape but cannot be its own.

    Raises:
        OmniError: If formats are mixed, or a head differs from the embedding it is tied to.
    """
    _require_one_format(stored, about=about)
    if model.init_args["tie_embeddings"]:
        _require_tied_head(stored, about=about)


def _require_one_format(stored: Mapping[str, StoredTensor], *, about: str) -> None:
    """Refuse weights of mixed number formats, which cannot be multiplied with each other."""
    kept = {
        name: entry.format
        for name, entry in stored.items()
        if entry.format in FLOATS and not _is_encoder_weight(name)
    }
    usual = Counter(kept.values()).most_common(1)
    if odd := [f"{name} is {f}" for name, f in kept.items() if usual and f != usual[0][0]]:
        raise OmniError(
            f"the weights in {about} are {usual[0][0]}, but {abbreviate_names(odd)}; convert them "
            "to one format"
        )


def _require_tied_head(stored: Mapping[str, StoredTensor], *, about: str) -> None:
    """Refuse a stored head that differs from the embedding it is tied to."""
    head, table = stored.get("lm_head.weight"), stored.get("model.embed_tokens.weight")
    if head is None or table is None:
        return
    if head.shape != table.shape or not are_tables_equal(
        table, "model.embed_tokens.weight", head, "lm_head.weight"
    ):
        raise OmniError(
            f"{about} says tie_word_embeddings, but its lm_head.weight differs from its "
            "model.embed_tokens.weight; set tie_word_embeddings false in config.json, or leave the "
            "head out"
        )


def log_skipped_encoder(stored: Mapping[str, StoredTensor], *, about: str) -> None:
    """Log the skipped weights of a speech encoder, which no network of this package has."""
    names = [name for name in stored if _is_encoder_weight(name)]
    if names:
        count = sum(math.prod(stored[name].shape) for name in names)
        log.warning(
            "skipped in %s: %d weights of its speech encoder (%s, ...), %s parameters; continuous "
            "speech needs that encoder as a class of yours, see docs/published_weights.md",
            about,
            len(names),
            names[0],
            f"{count:,}",
        )


def make_renaming(model: Transformer) -> Rename:
    """Return the map from published names to those of a network; a tied head is left out.

    Unknown names are marked by a question mark, which no weight has.
    """
    is_tied = bool(model.init_args["tie_embeddings"])

    def rename(name: str) -> str | None:
        name = _add_model_prefix(name)
        if name.startswith(_ENCODER) or (is_tied and name.startswith("lm_head.")):
            return None
        own = name
        for theirs, ours in _RENAMED:
            own = own.replace(theirs, ours)
        return own if published_name(own) == name else f"?{name}"

    return rename


def _is_encoder_weight(name: str) -> bool:
    return _add_model_prefix(name).startswith(_ENCODER)


def _add_model_prefix(name: str) -> str:
    """Return a name with the prefix that some files leave out before the parts for speech."""
    return f"model.{name}" if name.startswith("audio_") else name


def published_name(ours: str) -> str:
    """Return the published name of one of our weights."""
    for theirs, name in _RENAMED:
        if name.startswith("."):
            ours = ours.replace(name, theirs)
        elif ours.startswith(name):
            ours = theirs + ours.removeprefix(name)
    return ours


def transformer_args(config: dict[str, Any], family: Family, *, about: str) -> dict[str, Any]:
    """Return the arguments of our transformer for a Qwen-shaped `config.json`.

    Raises:
        OmniError: If a setting is missing or not supported.
    """
    for name, most in _SIZES.items():
        _check_size(config, name, most, about)
    _check_booleans(config, about)
    heads, head_dim = config["num_attention_heads"], _read_head_dim(config, about)
    kv_heads = config.get("num_key_value_heads")
    kv_heads = heads if kv_heads is None else kv_heads
    if not is_json_integer(kv_heads) or kv_heads < 1 or heads % kv_heads:
        raise OmniError(
            f"'{about}' has num_key_value_heads {kv_heads!r}, wanted a divisor of its "
            f"num_attention_heads {heads}"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise OmniError(f"'{about}' has rope_parameters {rope!r}, wanted an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    bias = config.get("attention_bias", not family.qk_norm)
    layers = config.get("layer_types") or []
    others = [layer for layer in layers if layer != "full_attention"]
    unsupported = {
        "rope scaling": kind if kind != "default" else None,
        "hidden_act": config.get("hidden_act", "silu") if _has_other_activation(config) else None,
        "use_sliding_window": config.get("use_sliding_window") or None,
        "layer_types": others[0] if others else None,
        # its output projection has biases, too
        "attention_bias": bias if bias and family.qk_norm else None,
    }
    for name, value in unsupported.items():
        if value is not None:
            raise OmniError(f"'{about}' has {name} {value}, which our transformer does not support")
    thetas = (config.get("rope_theta"), rope.get("rope_theta"), 10_000.0)
    theta = next(value for value in thetas if value is not None)
    return {
        "dim": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "ffn_dim": config["intermediate_size"],
        "rope_theta": _read_positive("rope_theta", theta, about),
        "rope_sections": None,
        "qkv_bias": bias,
        "qk_norm": family.qk_norm,
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "norm_eps": _read_positive("rms_norm_eps", config.get("rms_norm_eps", 1e-6), about),
        "head_dim": head_dim,
    }


def _read_head_dim(config: dict[str, Any], about: str) -> int | None:
    """Return the size of a head, None if it is the usual one."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim")
    if size is None:
        if hidden % (2 * heads):
            raise OmniError(
                f"'{about}' has hidden_size {hidden}, wanted an even multiple of its "
                f"num_attention_heads {heads}"
            )
        return None
    if not is_json_integer(size) or not 1 <= size <= _MOST_HEAD_DIM or size % 2:
        raise OmniError(
            f"'{about}' has head_dim {size!r}, wanted an even number up to {_MOST_HEAD_DIM}"
        )
    return None if size * heads == hidden else int(size)


def _check_booleans(config: dict[str, Any], about: str) -> None:
    for name in ("tie_word_embeddings", "attention_bias", "use_sliding_window"):
        if not isinstance(config.get(name, False), bool):
            raise OmniError(f"'{about}' has {name} {config[name]!r}, wanted true or false")


def _check_size(config: dict[str, Any], name: str, most: int, about: str) -> None:
    if name not in config:
        raise OmniError(f"'{about}' has no {name}; copy the checkpoint again")
    size = config[name]
    if not is_json_integer(size) or not 1 <= size <= most:
        raise OmniError(f"'{about}' has {name} {size!r}, wanted an integer from 1 to {most}")


def _read_positive(name: str, value: Any, about: str) -> float:
    if (
        not (is_json_integer(value) or isinstance(value, float))
        or not 0 < value < sys.float_info.max
    ):
        raise OmniError(f"'{about}' has {name} {value!r}, wanted a number above 0")
    return float(value)


def _has_other_activation(config: dict[str, Any]) -> bool:
    return config.get("hidden_act", "silu") not in ("silu", "swish")
