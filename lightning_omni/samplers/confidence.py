"""Most confident first, the default of text diffusion models."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Generator, Tensor

from lightning_omni.samplers.base import Canvas, Sampler, Scores
from lightning_omni.samplers.score import choose, max_probability


class Confidence(Sampler):
    """Commit the positions whose likeliest token is most probable.

    Source: LLaDA, arXiv:2502.09992, section 2.4 (low-confidence remasking).
    """

    def __init__(self, temperature: float = 0.0) -> None:
        self.temperature = temperature

    def sureness(self, log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
        """The measure positions are ranked by: the largest probability."""
        return max_probability(log_p)

    def propose(
        self, canvas: Canvas, scores: Scores, *, rng: Generator
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Take the token, rank by how sure it is."""
        column = choose(scores.logits, temperature=self.temperature, rng=rng)
        return scores.allowed[column], self.sureness(scores.logits.log_softmax(-1))
