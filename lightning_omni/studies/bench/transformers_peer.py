"""The peer: a `transformers` model with padded batches, a dense mask and all logits.

Its loss is computed in the library's way and in dllm's.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_omni.errors import OmniError
from lightning_omni.nn.transformer import Transformer
from lightning_omni.studies.bench.workload import Samples, Shape

_NAMES = (
    ("embedding.tokens.", "model.embed_tokens."),
    ("embedding.head.", "lm_head."),
    ("blocks.", "model.layers."),
    (".attention_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".attention.", ".self_attn."),
    (".ffn.", ".mlp."),
)
IGNORED = -100
_LAST = 1e-3  # last time of the released schedule


def make_peer(network: Transformer, shape: Shape) -> Any:
    """Return a bidirectional Qwen2 of `transformers` with the weights of `network`.

    Raises:
        OmniError: If `transformers` is not installed.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise OmniError(
            "the peer needs the bench extra; run pip install 'lightning_omni[bench]'"
        ) from error
    args = network.init_args
    config = transformers.Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=args["dim"],
        intermediate_size=args["ffn_dim"],
        num_hidden_layers=args["num_layers"],
        num_attention_heads=args["num_heads"],
        num_key_value_heads=args["num_kv_heads"],
        rope_parameters={"rope_type": "default", "rope_theta": args["rope_theta"]},
        rms_norm_eps=args["norm_eps"],
        tie_word_embeddings=False,
        use_cache=False,
    )
    peer = transformers.Qwen2ForCausalLM(config)
    peer.load_state_dict({_peer_parameter_name(k): v for k, v in network.state_dict().items()})
    return peer


def _peer_parameter_name(name: str) -> str:
    if name.startswith("norm."):
        return f"model.{name}"
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    return name


def pad_samples(samples: Samples, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Return the samples as a padded batch.

    Returns:
        Ids Int[B L], padded at the end; attention mask Bool[B 1 L L]; labels Int[B L].
    """
    longest = max(samples.lengths)
    labels_flat = torch.full_like(samples.x0, IGNORED)
    labels_flat[samples.masked] = samples.x0[samples.masked]

    def split_and_pad(flat: Tensor, padding: int) -> Tensor:
        parts = torch.split(flat, samples.lengths)
        return torch.stack([F.pad(p, (0, longest - len(p)), value=padding) for p in parts])

    is_there = split_and_pad(torch.ones_like(samples.x0), 0).bool()
    mask = is_there[:, None, None, :] & torch.ones(
        longest, 1, dtype=torch.bool, device=samples.x0.device
    )
    return (
        split_and_pad(samples.x_t, shape.mask_token_id),
        mask,
        split_and_pad(labels_flat, IGNORED),
    )


def peer_logits(peer: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Return the logits of all positions under bidirectional attention, Float[B L V]."""
    if mask is None:
        size = len(ids), 1, ids.shape[1], ids.shape[1]
        mask = torch.ones(size, dtype=torch.bool, device=ids.device)
    out: Tensor = peer(input_ids=ids, attention_mask={"full_attention": mask}).logits
    return out


def peer_loss(peer: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the masked tokens."""
    scores = peer_logits(peer, ids, mask).float()
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def dllm_loss(peer: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Return the same mean in the way of dllm's `MDLMTrainer`.

    It computes the cross-entropy of every position and weighs those without a mask by 0.

    Source: https://github.com/ZHZisZZ/dllm, `dllm/core/trainers/mdlm.py`.
    """
    is_masked = labels != IGNORED
    scores = peer_logits(peer, ids, mask).transpose(1, 2)
    nll = F.cross_entropy(scores, labels.clamp(min=0), reduction="none")
    return (nll * is_masked).sum() / is_masked.sum()


LOSSES = {"peer": peer_loss, "dllm": dllm_loss}
"""The peer's losses by the side of the benchmark that computes them."""


@torch.no_grad()
def sample_with_released_sampler(
    peer: Any, ids: Tensor, *, steps: int, span: tuple[int, int], mask_token_id: int
) -> Tensor:
    """Unmask one sequence by the released sampler.

    Every step computes the whole sequence and the logits of all ids at all positions, and commits
    the most confident masked positions, as many as the released schedule says.

    Args:
        peer: Network.
        ids: Token ids with masks, Int[L].
        steps: Denoising steps.
        span: Allowed ids, first and one past the last.
        mask_token_id: Id of the mask token.

    Returns:
        Token ids without masks, Int[L].
    """
    ids = ids.clone()
    for step in range(steps):
        scores = peer_logits(peer, ids[None], None)[0].float()
        scores[:, : span[0]] = -torch.inf
        scores[:, span[1] :] = -torch.inf
        probability, token = scores.softmax(-1).max(-1)
        is_masked = ids == mask_token_id
        probability = probability.masked_fill(~is_masked, -1.0)
        now, then = (1 - (1 - _LAST) * s / steps for s in (step, step + 1))
        num_masked = int(is_masked.sum())
        count = num_masked
        if step + 1 < steps:
            count = max(1, int(num_masked * (1 - then / now) + 1e-6))
        chosen = probability.topk(count).indices
        ids[chosen] = token[chosen]
    return ids
