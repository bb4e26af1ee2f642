"""Read a Dream (Qwen2.5-shaped) checkpoint folder into our backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from lightning_omni.errors import OmniError
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
_LEFT_OUT = ("model.audio_projection.", "model.audio_model.")


def load_dream(folder: str | Path) -> Transformer:
    """Build the backbone of a Hugging Face style folder of `model_type` Dream.

    Those networks emit at position i - 1 the scores of token i; read their logits accordingly.
    The speech projector and encoder are left out.

    Raises:
        OmniError: If files are missing or a weight has no place in the backbone.

    Source: Dream 7B, arXiv:2508.15487.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("model*.safetensors"))
    if not (folder / "config.json").is_file() or not shards:
        raise OmniError(
            f"no Dream checkpoint in '{folder}': want config.json and model*.safetensors"
        )
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    model = Transformer(
        config["vocab_size"],
        [],
        dim=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        ffn_dim=config["intermediate_size"],
        rope_theta=config["rope_theta"],
        rope_sections=None,
        qkv_bias=True,
        qk_norm=False,
        tie_embeddings=config["tie_word_embeddings"],
        norm_eps=config["rms_norm_eps"],
    )
    state: dict[str, Tensor] = {}
    for shard in shards:
        for name, value in load_file(shard).items():
            if not name.startswith(_LEFT_OUT):
                state[_our_name(name)] = value
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise OmniError(f"weights in '{folder}' do not fit the Dream backbone: {error}") from error
    return model.eval()


def _our_name(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name
