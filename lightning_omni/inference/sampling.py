"""How a user wants answers to be sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict

from torch import Tensor

from lightning_omni.arguments import check_within
from lightning_omni.samplers.base import Sampler

MAX_SEED = 2**63 - 1
MAX_STEPS, MAX_GUIDANCE, MAX_TEMPERATURE = 4096, 100.0, 100.0
StepHook = Callable[[int, Tensor], None]
"""Told the number of a step and the packed ids after it."""
Quality = Literal["fast", "balanced", "best"]
Precision = Literal["float32", "bfloat16"]


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keywords."""

    quality: Quality
    num_steps: int | None
    guidance_scale: float | None
    temperature: float | None
    refresh_every: int | None
    sampler: Sampler | None
    block_size: int | None
    precision: Precision


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample; None takes what the quality says for the task.

    Attributes:
        quality: Row of the table in `inference/defaults.py`.
        num_steps: Denoising steps of each hole.
        guidance_scale: Of classifier-free guidance; 0 is off.
        temperature: 0 takes the likeliest tokens. A `sampler` has its own.
        refresh_every: Steps between two passes over the whole prompt; 1 is exact.
        sampler: Which tokens are committed.
        block_size: Fill holes in blocks of so many positions, from left to right.
        precision: Format of the network's matrix products.

    Raises:
        OmniError: If a number is out of its range.
    """

    quality: Quality = "balanced"
    num_steps: int | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    refresh_every: int | None = None
    sampler: Sampler | None = None
    block_size: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.num_steps is not None:
            check_within("steps", self.num_steps, 1, MAX_STEPS)
        if self.guidance_scale is not None:
            check_within("guidance", self.guidance_scale, 0, MAX_GUIDANCE)
        if self.temperature is not None:
            check_within("temperature", self.temperature, 0, MAX_TEMPERATURE)
        if self.refresh_every is not None:
            check_within("refresh_every", self.refresh_every, 1)
        if self.block_size is not None:
            check_within("block_size", self.block_size, 1)


def check_seed(seed: int) -> None:
    """Refuse a seed that generators do not take.

    Raises:
        OmniError: If so.
    """
    check_within("seed", seed, 0, MAX_SEED)
