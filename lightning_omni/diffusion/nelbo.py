"""Monte Carlo estimate of the NELBO, -log p(x_0) or more, with stratified numbers of masks.

An answer of L tokens of which l are masked costs (L / l) times the nats of its masks; the mean over
l = 1..L and over all choices of l tokens is the NELBO. It is the mean cost over all orders of
decoding, so for the exact posterior it equals -log p, and it depends on no schedule.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.diffusion.forward_process import fixed_count_mask
from lightning_omni.diffusion.noise import uniform

_RATIO = -11  # a position that no token has


def stratified_mask_ratios(
    seed: int, sample_index: Int[Tensor, " N"], *, draws: int
) -> Float[Tensor, "draws N"]:
    """Return mask ratios in (0, 1], one per stratum and segment, each segment shifted by noise.

    Args:
        seed: Seed of the noise.
        sample_index: Sample index of each segment.
        draws: Number of strata.
    """
    index = torch.arange(draws, device=sample_index.device)[:, None]
    expanded = sample_index[None].expand(draws, -1)
    shift = uniform(seed, expanded, _RATIO - index.expand(-1, len(sample_index)))
    return 1 - (index + shift) / draws


def nelbo_mask(
    seed: int,
    sample_index: Int[Tensor, " N"],
    ratios: Float[Tensor, " N"],
    is_answer: Bool[Tensor, " T"],
    segment: Int[Tensor, " T"],
    positions: Int[Tensor, " T"],
    *,
    draw: int,
) -> tuple[Bool[Tensor, " T"], Float[Tensor, " N"]]:
    """Return which tokens are masked, and the factor of the nats of each segment's masks.

    Args:
        seed: Seed of the noise.
        sample_index: Sample index of each segment.
        ratios: Mask ratios of this draw, from `stratified_mask_ratios`; of L tokens ceil(ratio * L)
            are masked, so all counts are equally likely.
        is_answer: True for the tokens whose NELBO is wanted.
        segment: Segment of each token.
        positions: Index of each token within its segment.
        draw: Number of the draw.

    Source: LLaDA, arXiv:2502.09992, equation 6.
    """
    u = uniform(seed + draw + 1, sample_index[segment], positions)
    is_masked, share = fixed_count_mask(u, is_answer, ratios, segment)
    return is_masked, 1 / share


def nelbo_per_segment(
    nll: Float[Tensor, " M"],
    segment: Int[Tensor, " M"],
    factor: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Return the estimate of each segment's NELBO from one draw, in nats.

    Args:
        nll: -log p of the true token at each mask, in nats.
        segment: Segment of each mask.
        factor: Factor of each segment, from `nelbo_mask`.
    """
    total = torch.zeros_like(factor).index_add_(0, segment, nll.to(factor.dtype))
    return total * factor
