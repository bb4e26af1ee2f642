"""MaskGIT: sample tokens, rank by confidence with annealed noise, many at once."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Scores
from lightning_omni.samplers.noise import Noise, NoisePurpose
from lightning_omni.samplers.token_choice import check_choice_options, choose_token, gumbel_noise


class MaskGIT(Sampler):
    """Few steps at first, many masks at the end (cosine), with noise that fades.

    Args:
        temperature: sampling temperature of tokens; 0 takes the likeliest.
        noise: scale of the Gumbel noise on log-confidence at the first step; it falls to zero.

    Source: MaskGIT, arXiv:2202.04200, section 3.3.
    """

    def __init__(self, temperature: float = 1.0, noise: float = 4.5) -> None:
        check_choice_options(temperature)
        check_within("noise", noise, 0)
        self.temperature, self.noise = temperature, noise

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Draw tokens; rank by their log-probability plus annealed noise."""
        positions = scores.positions
        column = choose_token(
            scores.logits, temperature=self.temperature, noise=noise, positions=positions
        )
        log_p = scores.logits.log_softmax(-1).gather(-1, column[:, None]).squeeze(-1).double()
        scale = self.noise * (1 - scores.progress)
        return scores.allowed[column], log_p + scale * gumbel_noise(
            noise.uniform(positions, NoisePurpose.ORDER)
        )

    def mask_ratio(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """cos(pi (1 - t) / 2): few commits early, when least is known."""
        return torch.cos(math.pi / 2 * (1 - t))
