"""Commit every position above a confidence threshold."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.samplers.confidence import Confidence


class Threshold(Confidence):
    """Commit every position whose likeliest token is at least this probable.

    The schedule's number is committed in any case, so that `num_steps` bounds the forwards: with as
    many steps as positions, one token; with fewer, more.

    Args:
        threshold: probability from which a token is committed.
        temperature: sampling temperature; 0 takes the likeliest tokens.

    Source: Fast-dLLM, arXiv:2505.22618, section 3.3 (confidence-aware parallel decoding).
    """

    def __init__(self, threshold: float = 0.9, temperature: float = 0.0) -> None:
        check_within("threshold", threshold, 0, 1)
        super().__init__(temperature)
        self.threshold = threshold

    def num_confident(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """Count the positions that reach the threshold."""
        return sample[confidence >= self.threshold].bincount(minlength=num_samples)
