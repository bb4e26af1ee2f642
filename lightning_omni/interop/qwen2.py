"""Check that a backbone is Qwen2-shaped, and write its `config.json`."""

from __future__ import annotations

from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.nn.transformer import Transformer

_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def check_qwen2_shape(transformer: Transformer, *, about: str) -> None:
    """Refuse a backbone that Qwen2's layout cannot hold; Dream's may have a projector.

    Args:
        transformer: backbone.
        about: folder's name in errors.

    Raises:
        OmniError: Naming each property that Qwen2 does not have.
    """
    args = transformer.init_args
    sections = args["rope_sections"]
    obstacles = {
        f"rotary sections for rows and columns (rope_sections {sections})": any(
            (sections or [])[1:]
        ),
        "query-key norm (qk_norm)": args["qk_norm"],
        "heads of another size (head_dim)": args["head_dim"]
        not in (None, args["dim"] // args["num_heads"]),
        "codebook embeddings (code_spans)": bool(args["code_spans"]),
        "queries, keys and values without biases (qkv_bias)": not args["qkv_bias"],
        "prompt that does not attend to the response (isolate_prompt)": args["isolate_prompt"],
        "projector of continuous features (continuous_dim)": args["continuous_dim"] is not None
        and not transformer.right_shift_logits,
    }
    found = [what for what, is_there in obstacles.items() if is_there]
    if found:
        raise OmniError(
            f"the backbone in '{about}' cannot be written as hf, because Qwen2 does not have "
            f"its {', '.join(found)}; give --format safetensors"
        )


def qwen2_config(
    transformer: Transformer, formats: set[str], *, right_shift_logits: bool
) -> dict[str, Any]:
    """Return the `config.json` of a Qwen2-shaped backbone.

    Args:
        transformer: Qwen2-shaped backbone.
        formats: number formats of its weights, as safetensors names them.
        right_shift_logits: whether its output at position i - 1 scores token i (Dream, or a Qwen2
            if attention is causal).
    """
    args = transformer.init_args
    is_dream = right_shift_logits and not transformer.is_causal
    theta = args["rope_theta"]
    config = {
        "architectures": ["DreamModel" if is_dream else "Qwen2ForCausalLM"],
        "model_type": "Dream" if is_dream else "qwen2",
        "vocab_size": args["vocab_size"],
        "hidden_size": args["dim"],
        "intermediate_size": args["ffn_dim"],
        "num_hidden_layers": args["num_layers"],
        "num_attention_heads": args["num_heads"],
        "num_key_value_heads": args["num_kv_heads"],
        "hidden_act": "silu",
        "rms_norm_eps": args["norm_eps"],
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": True,
        "attention_dropout": 0.0,
        "tie_word_embeddings": args["tie_embeddings"],
        "use_sliding_window": False,
    }
    if not is_dream:
        config["is_causal"] = transformer.is_causal  # `transformers` honours it, too
    if len(formats) == 1:
        config["torch_dtype"] = _DTYPES[formats.pop()]
    return config
