"""Commit where the best token leads the second best by most."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lightning_omni.samplers.base import lead
from lightning_omni.samplers.confidence import Confidence


class Margin(Confidence):
    """Rank positions by the lead of the likeliest token, in probability.

    Two near-equal candidates are a reason to wait, however much mass they hold together.

    Source: arXiv:2502.06768, section 4.2 (top-k probability margin).
    """

    def sureness(self, log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
        """The lead of the likeliest token."""
        return lead(log_p)
