"""Choose tokens from logits: truncation to the likeliest, Gumbel noise and temperature."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.samplers.noise import Noise, NoisePurpose


def check_choice_options(
    temperature: float, *, top_p: float = 1.0, top_k: int | None = None
) -> None:
    """Check the options of `truncate_logits` and `choose_token`.

    Raises:
        OmniError: if one leaves no distribution.
    """
    check_within("temperature", temperature, 0)
    check_within("top_p", top_p, 0, 1)
    if top_k is not None:
        check_within("top_k", top_k, 1)


def truncate_logits(
    logits: Float[Tensor, "M G"], *, top_p: float, top_k: int | None
) -> Float[Tensor, "M G"]:
    """Set logits outside the nucleus, then those outside the `top_k` likeliest, to -inf.

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


def gumbel_noise(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return standard Gumbel noise from uniform float64.

    float32 noise would lower the temperature silently: ReMDM, arXiv:2503.00307, and
    arXiv:2409.02908.
    """
    exponential = -torch.log(u.clamp_min(1e-300))
    return -torch.log(exponential.clamp_min(1e-300))


def choose_token(
    logits: Float[Tensor, "M G"], *, temperature: float, noise: Noise, positions: Int[Tensor, " M"]
) -> Int[Tensor, " M"]:
    """Return the column of the likeliest token at temperature 0, of a sampled one above it."""
    if temperature == 0:
        return logits.argmax(-1)
    u = noise.uniform_table(positions, logits.shape[1], NoisePurpose.TOKEN)
    return (logits.double() / temperature + gumbel_noise(u)).argmax(-1)
