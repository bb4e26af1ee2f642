"""Commit where the best token leads the second best by most."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Generator, Tensor

from lightning_omni.samplers.base import Canvas, Sampler, Scores
from lightning_omni.samplers.score import choose


class Margin(Sampler):
    """Rank positions by the lead of the likeliest token, in probability.

    Two near-equal candidates are a reason to wait, however much mass they hold together.

    Source: arXiv:2502.06768, section 4.2 (top-k probability margin).
    """

    def __init__(self, temperature: float = 0.0) -> None:
        self.temperature = temperature

    def propose(
        self, canvas: Canvas, scores: Scores, *, rng: Generator
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Take the token, rank by its lead; where one id alone is allowed, the lead is 1."""
        column = choose(scores.logits, temperature=self.temperature, rng=rng)
        best = scores.logits.softmax(-1).topk(min(2, scores.logits.shape[-1]), dim=-1).values
        lead = best[:, 0] - best[:, 1] if best.shape[1] > 1 else best[:, 0]
        return scores.allowed[column], lead
