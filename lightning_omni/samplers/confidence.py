"""Most confident first, the default of text diffusion models; measures of confidence."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Scores
from lightning_omni.samplers.noise import Noise
from lightning_omni.samplers.token_choice import check_choice_options, choose_token, truncate_logits


class Confidence(Sampler):
    """Commit the positions whose likeliest token is most probable.

    Args:
        temperature: sampling temperature; 0 takes the likeliest token.
        top_p: nucleus kept before scoring; 1 keeps all.
        top_k: tokens kept after the nucleus; None keeps all.

    Source: LLaDA, arXiv:2502.09992, section 2.4 (low-confidence remasking).
    """

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, top_k: int | None = None
    ) -> None:
        check_choice_options(temperature, top_p=top_p, top_k=top_k)
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k

    def confidence(self, log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
        """Return the measure that ranks positions: the largest probability."""
        return log_p.max(-1).values.exp()

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Take the token, rank by confidence."""
        logits = truncate_logits(scores.logits, top_p=self.top_p, top_k=self.top_k)
        column = choose_token(
            logits, temperature=self.temperature, noise=noise, positions=scores.positions
        )
        return scores.allowed[column], self.confidence(logits.log_softmax(-1))


def negative_entropy(log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
    """Return the sum of p log p, in nats; 0 is certain."""
    return (log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)
