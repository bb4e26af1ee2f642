"""Any sampler, with committed tokens replaced where the model is sure of another."""

from __future__ import annotations

from copy import copy

from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.errors import check_within
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Moment, Scores
from lightning_omni.samplers.growth import Grown
from lightning_omni.samplers.noise import Noise


class TokenEditing(Sampler):
    """Commit as another sampler does; replace a visible token where another one is probable enough.

    It costs no forwards: tokens are looked at whenever their sample is. For networks that were
    trained with replaced tokens (`replace_ratio` of the forward process).

    Args:
        sampler: Which masks are committed.
        threshold: Probability from which another token takes a visible one's place.

    Source: LLaDA 2.1, technical report (token-to-token editing).
    """

    revises = True

    def __init__(self, sampler: Sampler, threshold: float = 0.9) -> None:
        check_within("threshold", threshold, 0, 1)
        self.sampler, self.threshold = sampler, threshold
        self.reopens = sampler.reopens

    def begin(self, canvas: Canvas) -> Sampler:
        """A copy around the other sampler's run."""
        run = copy(self)
        run.sampler = self.sampler.begin(canvas)
        return run

    def after_growth(self, grown: Grown) -> Sampler:
        """As the other sampler."""
        self.sampler = self.sampler.after_growth(grown)
        return self

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """As the other sampler."""
        return self.sampler.propose(canvas, scores, noise=noise)

    def quota(
        self, moment: Moment, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"]
    ) -> Int[Tensor, " S"]:
        """As the other sampler."""
        return self.sampler.quota(moment, confidence, sample)

    def reopened(
        self, canvas: Canvas, moment: Moment, where: Int[Tensor, " K"], *, noise: Noise
    ) -> Bool[Tensor, " K"]:
        """As the other sampler."""
        return self.sampler.reopened(canvas, moment, where, noise=noise)

    def revised(self, canvas: Canvas, scores: Scores, *, noise: Noise) -> Int[Tensor, " K"]:
        """The likeliest token where it is probable enough, else what is there."""
        probability, column = scores.logits.softmax(-1).max(-1)
        is_sure = probability > self.threshold
        return scores.allowed[column].where(is_sure, canvas.ids[scores.where])
