"""Commit as many positions as an entropy budget allows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.samplers.confidence import Confidence, negative_entropy
from lightning_omni.samplers.ranking import most_confident_first


class EntropyBounded(Confidence):
    """Commit the largest set of lowest entropies whose sum without its largest is within a bound.

    That sum bounds how far tokens drawn at once are from tokens drawn one after another. The
    schedule's number is committed in any case.

    Args:
        bound: entropy in nats; larger is faster and riskier, 0 commits one position and whatever is
            certain.
        temperature: sampling temperature; 0 takes the likeliest tokens.

    Source: EB-Sampler, arXiv:2505.24857.
    """

    def __init__(self, bound: float = 0.1, temperature: float = 0.0) -> None:
        check_within("bound", bound, 0)
        super().__init__(temperature)
        self.bound = bound

    def confidence(self, log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
        """Return the negative entropy."""
        return negative_entropy(log_p)

    def num_confident(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """Count the positions that the bound allows."""
        order, _ = most_confident_first(confidence, sample, num_samples)
        counts = sample.bincount(minlength=num_samples).tolist()
        entropies = torch.split(-confidence[order].double(), counts)
        before = torch.cat([own.cumsum(0) - own for own in entropies])
        is_within = before <= self.bound
        return sample[order][is_within].bincount(minlength=num_samples)
