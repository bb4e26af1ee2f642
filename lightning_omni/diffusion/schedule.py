"""Noise schedules: the keep-probability alpha(t) and the weight of the loss at time t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_omni.errors import check_within

T_MIN = 1e-3
"""Times are clamped to [T_MIN, 1]: below it a sample has no masks and an unbounded weight."""


class NoiseSchedule(ABC):
    """alpha(t) falls from alpha(0) = 1, nothing masked, to alpha(1) = 0, everything masked."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Probability that a token is kept at time t in [0, 1]."""

    @abstractmethod
    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """-alpha'(t) / (1 - alpha(t)), the weight of each masked token's loss.

        Source: MDLM, arXiv:2406.07524, equation 10.
        """


class Linear(NoiseSchedule):
    """alpha = 1 - t, weight 1/t: mask ratios are uniform."""

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 - t."""
        return 1 - t

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 / t."""
        return 1 / t.clamp_min(T_MIN)


class Cosine(NoiseSchedule):
    """alpha = 1 - cos(pi (1 - t) / 2): high mask ratios are visited more often.

    The weight makes up for it, so the expected loss is that of `Linear`.

    Source: MaskGIT, arXiv:2202.04200, section 3.3.
    """

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 - cos(pi (1 - t) / 2)."""
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """pi/2 tan(pi (1 - t) / 2)."""
        return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t.clamp_min(T_MIN)))


class Polynomial(NoiseSchedule):
    """alpha = 1 - t**power, weight power / t.

    Below a power of 1 much is masked early, so that the clamp lies where `T_MIN` is masked.
    """

    def __init__(self, power: float) -> None:
        check_within("power", power, 0.1)
        self.power = power

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 - t**power."""
        return 1 - t**self.power

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Power / t."""
        return self.power / t.clamp_min(min(T_MIN, T_MIN ** (1 / self.power)))


class Shifted(NoiseSchedule):
    """Another schedule at the time s(t) = shift t / (1 + (shift - 1) t).

    A shift above 1 visits high mask ratios more often, below 1 low ones.

    Source: LaViDa, arXiv:2505.16839, equation 3.
    """

    def __init__(self, schedule: NoiseSchedule, shift: float) -> None:
        check_within("shift", shift, 1e-3)
        self.schedule, self.shift = schedule, shift

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Of the other schedule at s(t)."""
        return self.schedule.alpha(shifted(t, self.shift))

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Of the other schedule at s(t), times s'(t)."""
        slope = self.shift / (1 + (self.shift - 1) * t) ** 2
        return self.schedule.weight(shifted(t, self.shift)) * slope


def shifted(t: Float[Tensor, "*shape"], shift: Tensor | float) -> Float[Tensor, "*shape"]:
    """s(t) = shift t / (1 + (shift - 1) t), which keeps 0 and 1 where they are."""
    return shift * t / (1 + (shift - 1) * t)
