"""Ancestral sampling: positions in random order, tokens from the model's distribution."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Scores
from lightning_omni.samplers.noise import Noise, NoisePurpose
from lightning_omni.samplers.token_choice import check_choice_options, choose_token


class Ancestral(Sampler):
    """Unmask random positions; unbiased with as many steps as tokens.

    Source: MDLM, arXiv:2406.07524, section 4.2.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        check_choice_options(temperature)
        self.temperature = temperature

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Draw tokens, and an order independent of them."""
        positions = scores.positions
        column = choose_token(
            scores.logits, temperature=self.temperature, noise=noise, positions=positions
        )
        return scores.allowed[column], noise.uniform(positions, NoisePurpose.ORDER)
