"""A bound on -log p(x_0), by counts of masks that are drawn in strata.

An answer of L tokens of which l are masked costs (L / l) times the nats of its masks; the mean over
l = 1..L and over which are masked is the bound. It is the mean cost over all orders of decoding, so
for the exact posterior it is -log p itself, and there is no schedule in it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.diffusion.forward_process import counted_mask
from lightning_omni.diffusion.noise import uniform

_LEVEL = -11  # a place that no token has


def stratified_levels(
    seed: int, visits: Int[Tensor, " N"], *, draws: int
) -> Float[Tensor, "draws N"]:
    """Shares in (0, 1], one of each stratum for every segment, shifted by noise of its own.

    Args:
        seed: Of the noise.
        visits: Number of each segment's sample.
        draws: Strata.
    """
    index = torch.arange(draws, device=visits.device)[:, None]
    shift = uniform(seed, visits[None].expand(draws, -1), _LEVEL - index.expand(-1, len(visits)))
    return 1 - (index + shift) / draws


def mask_for_bound(
    seed: int,
    visits: Int[Tensor, " N"],
    levels: Float[Tensor, " N"],
    core: Bool[Tensor, " T"],
    segment: Int[Tensor, " T"],
    position: Int[Tensor, " T"],
    *,
    draw: int,
) -> tuple[Bool[Tensor, " T"], Float[Tensor, " N"]]:
    """Which tokens are masked, and by what the nats of each segment's masks are to be multiplied.

    Args:
        seed: Of the noise.
        visits: Number of each segment's sample.
        levels: Of this draw, from `stratified_levels`; of L tokens ceil(level * L) are masked, so
            every count is as likely as another.
        core: True for the tokens whose bound is wanted.
        segment: Segment of each token.
        position: Place of each token in its segment.
        draw: Number of the draw.

    Source: LLaDA, arXiv:2502.09992, equation 6.
    """
    u = uniform(seed + draw + 1, visits[segment], position)
    is_masked, share = counted_mask(u, core, levels, segment)
    return is_masked, 1 / share


def bound_per_segment(
    nats: Float[Tensor, " M"],
    segment: Int[Tensor, " M"],
    factor: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Estimate of each segment's bound from one draw, in nats.

    Args:
        nats: -log p of the true token at each mask.
        segment: Segment of each mask.
        factor: From `mask_for_bound`.
    """
    total = torch.zeros_like(factor).index_add_(0, segment, nats.to(factor.dtype))
    return total * factor
