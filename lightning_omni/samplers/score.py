"""How sure a model is of a position: the measures samplers rank by."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.arguments import check_within
from lightning_omni.samplers.noise import Noise, Use


def check_choice(temperature: float, *, top_p: float = 1.0, top_k: int | None = None) -> None:
    """Refuse options of `truncate` and `choose` that leave no distribution.

    Raises:
        OmniError: If so.
    """
    check_within("temperature", temperature, 0)
    check_within("top_p", top_p, 0, 1)
    if top_k is not None:
        check_within("top_k", top_k, 1)


def max_probability(log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
    """Probability of the likeliest token."""
    return log_p.max(-1).values.exp()


def lead(log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
    """Probability of the likeliest token less that of the second; of a single one, its own."""
    best = log_p.topk(min(2, log_p.shape[-1]), dim=-1).values.exp()
    return best[:, 0] - best[:, 1:].sum(-1)


def negative_entropy(log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
    """Sum of p log p, in nats; 0 when certain."""
    return (log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)


def truncate(
    logits: Float[Tensor, "M G"], *, top_p: float, top_k: int | None
) -> Float[Tensor, "M G"]:
    """Set what lies outside the nucleus, then outside the `top_k` likeliest, to -inf.

    Source: nucleus sampling, arXiv:1904.09751. The token that crosses `top_p` is kept.
    """
    if top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, index, before > top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    if top_k is not None and top_k < logits.shape[-1]:
        threshold = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    return logits


def gumbel(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard Gumbel noise of uniform float64; float32 noise lowers the temperature silently.

    Source: ReMDM, arXiv:2503.00307, and arXiv:2409.02908 on the float32 truncation.
    """
    waiting = -torch.log(u.clamp_min(1e-300))
    return -torch.log(waiting.clamp_min(1e-300))


def choose(
    logits: Float[Tensor, "M G"], *, temperature: float, noise: Noise, where: Int[Tensor, " M"]
) -> Int[Tensor, " M"]:
    """Column of the likeliest token at temperature 0, of a sampled one above it."""
    if temperature == 0:
        return logits.argmax(-1)
    u = noise.table(where, logits.shape[1], Use.TOKEN)
    return (logits.double() / temperature + gumbel(u)).argmax(-1)
