"""The randomness of sampling: one stream of noise per sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.diffusion.noise import uniform
from lightning_omni.samplers.canvas import to_device
from lightning_omni.samplers.ranking import rank_within_sample

_COLUMN_BITS, _INDEX_BITS = 18, 17


class NoisePurpose(IntEnum):
    """Purpose of a random number; the streams of different purposes are independent."""

    TOKEN, ORDER, REMASK = range(3)


@dataclass(frozen=True, slots=True)
class Noise:
    """Uniform noise as a function of (seed of the sample, step, index in the sample, use).

    So a sample's result does not depend on the rest of the batch.

    Attributes:
        seeds: one seed per sample, Int[S].
        sample: sample of each token of the canvas, Int[T].
        index: index of each token in its sample, Int[T].
        step: number of steps that each sample has taken, over all its blocks, Int[S].
    """

    seeds: Tensor
    sample: Tensor
    index: Tensor
    step: Tensor

    @classmethod
    def for_samples(cls, seeds: Int[Tensor, " S"], sample: Int[Tensor, " T"]) -> Noise:
        """Make the noise of a canvas before its first step; `sample` is sorted."""
        return cls(
            seeds, sample, rank_within_sample(sample, len(seeds))[0], torch.zeros_like(seeds)
        )

    def to(self, device: torch.device | str) -> Noise:
        """Return the same streams on a device."""
        seeds, sample = to_device(self.seeds, device), to_device(self.sample, device)
        return Noise(seeds, sample, to_device(self.index, device), to_device(self.step, device))

    def at_steps(self, step: Int[Tensor, " S"]) -> Noise:
        """Return the same streams at other steps."""
        return replace(self, step=step)

    def uniform(self, positions: Int[Tensor, " M"], use: NoisePurpose) -> Float[Tensor, " M"]:
        """Draw one float64 in [0, 1) for each position."""
        return uniform(int(use), self.seeds[self.sample[positions]], self._hash_key(positions))

    def uniform_table(
        self, positions: Int[Tensor, " M"], columns: int, use: NoisePurpose
    ) -> Float[Tensor, "M G"]:
        """Draw one float64 in [0, 1) for each position and column."""
        seeds = self.seeds[self.sample[positions]]
        column = torch.arange(columns, device=positions.device)
        key = self._hash_key(positions)[:, None] + column
        return uniform(int(use), seeds[:, None].expand_as(key), key)

    def _hash_key(self, positions: Tensor) -> Tensor:
        step = self.step[self.sample[positions]] << (_INDEX_BITS + _COLUMN_BITS)
        return step + (self.index[positions] << _COLUMN_BITS)
