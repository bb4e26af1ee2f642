"""Commit where the likeliest token leads the second by the largest margin."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lightning_omni.samplers.confidence import Confidence


class Margin(Confidence):
    """Rank positions by the probability margin between the two likeliest tokens.

    Two near-equal candidates are a reason to wait, however much mass they hold together.

    Source: arXiv:2502.06768, section 4.2 (top-k probability margin).
    """

    def confidence(self, log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
        """Return the probability of the likeliest token minus the second's, if there is one."""
        best = log_p.topk(min(2, log_p.shape[-1]), dim=-1).values.exp()
        return best[:, 0] - best[:, 1:].sum(-1)
