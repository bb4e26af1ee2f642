"""Read Dream and Qwen2 checkpoint folders into our transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.interop.checkpoint import fill_module, read_weights, weight_files
from lightning_omni.nn.rotary import RotaryAngles
from lightning_omni.nn.transformer import Transformer

_RENAMED = (
    ("model.embed_tokens.", "embedding.tokens."),
    ("lm_head.", "embedding.head."),
    ("model.norm.", "norm."),
    ("model.layers.", "blocks."),
    (".self_attn.", ".attention."),
    (".mlp.", ".ffn."),
    (".input_layernorm.", ".attention_norm."),
    (".post_attention_layernorm.", ".ffn_norm."),
)
_LEFT_OUT = ("model.audio_projection.", "model.audio_model.", "audio_projection.", "audio_model.")
_NEEDED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


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
    """Build the backbone of a Hugging Face style folder of `model_type` Dream or qwen2.

    Dream networks emit at position i - 1 the scores of token i; read their logits accordingly. The
    speech projector and encoder are left out. Weights keep their stored format.

    Raises:
        OmniError: If files are missing, a setting is not supported or the weights do not fit.

    Source: Dream 7B, arXiv:2508.15487.
    """
    folder = Path(folder)
    config = read_config(folder)
    args = transformer_args(config, about=str(folder / "config.json"))
    with torch.device("meta"):
        model = Transformer(config["vocab_size"], [], **args)
    rotary = {"theta": args["rope_theta"], "sections": None}
    model.rotary = RotaryAngles(args["dim"] // args["num_heads"], **rotary)
    is_tied = bool(args["tie_embeddings"])

    def rename(name: str) -> str | None:
        if name.startswith(_LEFT_OUT) or (is_tied and name.startswith("lm_head.")):
            return None
        for theirs, ours in _RENAMED:
            name = name.replace(theirs, ours)
        return name

    fill_module(model, read_weights(weight_files(folder)), rename, about=f"'{folder}'")
    return model.eval()


def transformer_args(config: dict[str, Any], *, about: str) -> dict[str, Any]:
    """Arguments of our transformer for a Qwen2-shaped `config.json`.

    Raises:
        OmniError: If a setting is missing or means a network that ours is not.
    """
    missing = [name for name in _NEEDED if name not in config]
    if missing:
        raise OmniError(f"'{about}' has no {missing[0]}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    heads = config["num_attention_heads"]
    unsupported = {
        "rope scaling": kind if kind != "default" else None,
        "hidden_act": config.get("hidden_act", "silu") if _is_other_act(config) else None,
        "head_dim": config.get("head_dim") if _is_other_head(config) else None,
        "use_sliding_window": config.get("use_sliding_window") or None,
    }
    for name, value in unsupported.items():
        if value is not None:
            raise OmniError(f"'{about}' asks for {name} {value}, which our transformer has not")
    return {
        "dim": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "ffn_dim": config["intermediate_size"],
        "rope_theta": float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
        "rope_sections": None,
        "qkv_bias": config.get("attention_bias", True),
        "qk_norm": False,
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
    }


def _is_other_act(config: dict[str, Any]) -> bool:
    return config.get("hidden_act", "silu") not in ("silu", "swish")


def _is_other_head(config: dict[str, Any]) -> bool:
    size = config.get("head_dim")
    return size is not None and size * config["num_attention_heads"] != config["hidden_size"]
