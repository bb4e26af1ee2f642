"""The one interface of samplers: what a mask would become, and which masks need not wait."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.samplers.canvas import Canvas, Moment, Scores
from lightning_omni.samplers.growth import Grown
from lightning_omni.samplers.noise import Noise


class Sampler(ABC):
    """Decides, at each step, what a mask would become and how sure that is.

    Attributes:
        reopens: Whether committed positions may become masks again.
        revises: Whether committed tokens may be replaced while their sample has masks.
    """

    reopens: bool = False
    revises: bool = False

    def begin(self, canvas: Canvas) -> Sampler:
        """The sampler of one run; one that remembers steps returns a copy with an empty memory."""
        return self

    def after_growth(self, grown: Grown) -> Sampler:
        """The sampler of a run whose canvas grew; one that remembers places moves its memory."""
        return self

    @abstractmethod
    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Propose a token id and a confidence for each open position; the surest are committed."""

    def quota(
        self, moment: Moment, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"]
    ) -> Int[Tensor, " S"]:
        """How many positions each sample commits: those that are sure, at least the schedule's.

        So `num_steps` bounds the forwards of every sampler.

        Args:
            moment: Where samples stand.
            confidence: Of each open position.
            sample: Of each open position.
        """
        sure = self.num_sure(confidence, sample, len(moment.t))
        return torch.maximum(self.scheduled(moment), sure)

    def scheduled(self, moment: Moment) -> Int[Tensor, " S"]:
        """The schedule's number: max(1, floor(open * (1 - r(s) / r(t)))), at the last step all.

        Source: the schedule of Dream, arXiv:2508.15487, as used by Omni-Diffusion.
        """
        ratio = self.mask_ratio(moment.s) / self.mask_ratio(moment.t)
        count = (moment.num_open * (1 - ratio) + 1e-6).floor().long().clamp(min=1)
        return torch.where(moment.s == 0, moment.num_open, count)

    def num_sure(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """How many of each sample's surest positions need not wait for the schedule; here none."""
        return torch.zeros(num_samples, dtype=torch.long, device=confidence.device)

    def mask_ratio(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Share of a hole still masked at time t; the identity spends steps evenly."""
        return t

    def reopened(
        self, canvas: Canvas, moment: Moment, where: Int[Tensor, " K"], *, noise: Noise
    ) -> Bool[Tensor, " K"]:
        """Which positions committed in earlier steps become masks again; asked if `reopens`."""
        return torch.zeros_like(where, dtype=torch.bool)

    def revised(self, canvas: Canvas, scores: Scores, *, noise: Noise) -> Int[Tensor, " K"]:
        """What committed positions become, most of them what they are; asked if `revises`."""
        return canvas.ids[scores.where]
