"""Noise schedules: the keep-probability alpha(t) and the weight of the loss at time t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_omni.argument_checks import check_within

T_MIN = 1e-3
"""Times are clamped to [T_MIN, 1]: below it a sample has no masks and its weight is unbounded."""


class NoiseSchedule(ABC):
    """Schedule alpha(t) that falls from 1 at t = 0, no masks, to 0 at t = 1, all masked."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the probability that a token is kept at time t in [0, 1]."""

    @abstractmethod
    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return -alpha'(t) / (1 - alpha(t)), the weight of each masked token's loss.

        Source: MDLM, arXiv:2406.07524, equation 10.
        """


class Linear(NoiseSchedule):
    """alpha = 1 - t, weight 1/t: mask ratios are uniform."""

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1 - t."""
        return 1 - t

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1 / t."""
        return 1 / t.clamp_min(T_MIN)


class Cosine(NoiseSchedule):
    """alpha = 1 - cos(pi (1 - t) / 2): high mask ratios are drawn more often.

    The weight corrects for it, so the expected loss equals that of `Linear`.

    Source: MaskGIT, arXiv:2202.04200, section 3.3.
    """

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1 - cos(pi (1 - t) / 2)."""
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return pi/2 tan(pi (1 - t) / 2)."""
        return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t.clamp_min(T_MIN)))


class Polynomial(NoiseSchedule):
    """alpha = 1 - t**power, weight power / t.

    For power < 1 the ratio rises steeply near t = 0, so the weight is clamped where the mask ratio
    reaches `T_MIN`.
    """

    def __init__(self, power: float) -> None:
        check_within("power", power, 0.1)
        self.power = power

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1 - t**power."""
        return 1 - t**self.power

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return power / t."""
        return self.power / t.clamp_min(min(T_MIN, T_MIN ** (1 / self.power)))


class Shifted(NoiseSchedule):
    """Another schedule at the shifted time s(t) = shift t / (1 + (shift - 1) t).

    A shift above 1 draws high mask ratios more often, below 1 low ones.

    Source: LaViDa, arXiv:2505.16839, equation 3.
    """

    def __init__(self, schedule: NoiseSchedule, shift: float) -> None:
        check_within("shift", shift, 1e-3)
        self.schedule, self.shift = schedule, shift

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return alpha of the other schedule at s(t)."""
        return self.schedule.alpha(shift_timesteps(t, self.shift))

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the weight of the other schedule at s(t), times s'(t)."""
        slope = self.shift / (1 + (self.shift - 1) * t) ** 2
        return self.schedule.weight(shift_timesteps(t, self.shift)) * slope


def shift_timesteps(t: Float[Tensor, "*shape"], shift: Tensor | float) -> Float[Tensor, "*shape"]:
    """Return s(t) = shift t / (1 + (shift - 1) t), which maps 0 to 0 and 1 to 1."""
    return shift * t / (1 + (shift - 1) * t)
