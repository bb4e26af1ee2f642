"""Commit in parallel: the more tokens at once, the more confident each must be."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.ranking import most_confident_first


class Factor(Confidence):
    """Commit the n most confident positions, n the largest with (n + 1) (1 - p_n) < factor.

    For a factor of 1 tokens that are drawn at once are those that greedy decoding would draw one
    after another, if the marginals are exact. The schedule's number is committed in any case.

    Args:
        factor: larger is faster and riskier.
        temperature: sampling temperature; 0 takes the likeliest tokens.

    Source: Fast-dLLM, arXiv:2505.22618, section 3.3, theorem 1.
    """

    def __init__(self, factor: float = 1.0, temperature: float = 0.0) -> None:
        check_within("factor", factor, 0)
        super().__init__(temperature)
        self.factor = factor

    def num_confident(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """Return the largest n that the rule allows."""
        order, rank = most_confident_first(confidence, sample, num_samples)
        is_confident = (rank + 2) * (1 - confidence[order]) < self.factor
        allowed = torch.zeros(num_samples, dtype=torch.long, device=confidence.device)
        return allowed.scatter_reduce_(0, sample[order], (rank + 1) * is_confident, "amax")
