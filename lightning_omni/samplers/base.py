"""The interface of samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.samplers.canvas import Canvas, Scores, StepTimes
from lightning_omni.samplers.noise import Noise


class Sampler(ABC):
    """Propose, at each step, a token and a confidence for every masked position.

    Attributes:
        remasks: whether committed positions may be masked again; `remask` is called if so.
    """

    remasks: bool = False

    def with_fresh_state(self, canvas: Canvas) -> Sampler:
        """Return the sampler of one run; one with state returns a copy with fresh state."""
        return self

    @abstractmethod
    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Propose a token id and a confidence per masked position; the most confident commit."""

    def num_transfer_tokens(
        self, times: StepTimes, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"]
    ) -> Int[Tensor, " S"]:
        """Return how many positions each sample commits: at least the schedule's number.

        So `num_steps` bounds the forward passes of every sampler.

        Args:
            times: times of the step.
            confidence: confidence of each masked position.
            sample: sample of each masked position.
        """
        confident = self.num_confident(confidence, sample, len(times.t))
        return torch.maximum(self.num_scheduled(times), confident)

    def num_scheduled(self, times: StepTimes) -> Int[Tensor, " S"]:
        """Return max(1, floor(masked * (1 - r(s) / r(t)))), and all masked ones at the last step.

        Source: the schedule of Dream, arXiv:2508.15487, as used by Omni-Diffusion.
        """
        ratio = self.mask_ratio(times.s) / self.mask_ratio(times.t)
        count = (times.num_masked * (1 - ratio) + 1e-6).floor().long().clamp(min=1)
        return torch.where(times.s == 0, times.num_masked, count)

    def num_confident(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """Return how many positions per sample commit ahead of the schedule; by default none."""
        return torch.zeros(num_samples, dtype=torch.long, device=confidence.device)

    def mask_ratio(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the share of a block still masked at time t; the identity is a linear schedule."""
        return t

    def remask(
        self, canvas: Canvas, times: StepTimes, positions: Int[Tensor, " K"], *, noise: Noise
    ) -> Bool[Tensor, " K"]:
        """Return which positions, committed in earlier steps, are masked again."""
        return torch.zeros_like(positions, dtype=torch.bool)
