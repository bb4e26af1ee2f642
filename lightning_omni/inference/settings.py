"""How a user wants answers to be sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lightning_omni.arguments import check_within

MAX_SEED = 2**63 - 1
MAX_STEPS, MAX_GUIDANCE, MAX_TEMPERATURE = 4096, 100.0, 100.0
StepHook = Callable[[int, Tensor], None]
"""Told the number of a step and the packed ids after it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to sample; None takes the task's default.

    Raises:
        OmniError: If a number is out of its range.
    """

    seed: int
    num_steps: int | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    refresh_every: int | None = None

    def __post_init__(self) -> None:
        check_within("seed", self.seed, 0, MAX_SEED)
        if self.num_steps is not None:
            check_within("steps", self.num_steps, 1, MAX_STEPS)
        if self.guidance_scale is not None:
            check_within("guidance", self.guidance_scale, 0, MAX_GUIDANCE)
        if self.temperature is not None:
            check_within("temperature", self.temperature, 0, MAX_TEMPERATURE)
        if self.refresh_every is not None:
            check_within("refresh_every", self.refresh_every, 1)
