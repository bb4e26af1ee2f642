"""The plain reverse process: positions in random order, tokens from the model's distribution."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from lightning_omni.samplers.base import Canvas, Sampler, Scores
from lightning_omni.samplers.score import choose


class Ancestral(Sampler):
    """Unmask random positions; unbiased with as many steps as tokens.

    Source: MDLM, arXiv:2406.07524, section 4.2.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def propose(
        self, canvas: Canvas, scores: Scores, *, rng: Generator
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Draw tokens, and an order that ignores them."""
        column = choose(scores.logits, temperature=self.temperature, rng=rng)
        return scores.allowed[column], torch.rand(len(column), generator=rng, device=rng.device)
