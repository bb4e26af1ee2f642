"""The randomness of a sampling run: every sample has a stream of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.diffusion.noise import uniform
from lightning_omni.samplers.canvas import rank_within

_COLUMN_BITS, _PLACE_BITS = 18, 17


class Use(IntEnum):
    """What a number is drawn for; uses are independent of one another."""

    TOKEN, ORDER, REOPEN = range(3)


@dataclass(frozen=True, slots=True)
class Noise:
    """Numbers that are a function of (seed of the sample, moment, place in the sample, use).

    So what a sample becomes does not depend on what else is in the batch.

    Attributes:
        seeds: Of each sample, Int[S].
        sample: Sample of each token of the canvas, Int[T].
        place: Place of each token in its sample, Int[T].
        moment: Steps that each sample has taken, over all its holes, Int[S].
    """

    seeds: Tensor
    sample: Tensor
    place: Tensor
    moment: Tensor

    @classmethod
    def of(cls, seeds: Int[Tensor, " S"], sample: Int[Tensor, " T"]) -> Noise:
        """Streams for the samples of a canvas; `sample` is sorted."""
        return cls(seeds, sample, rank_within(sample, len(seeds))[0], torch.zeros_like(seeds))

    def at(self, moment: Int[Tensor, " S"]) -> Noise:
        """The same streams at other moments."""
        return replace(self, moment=moment)

    def uniform(self, where: Int[Tensor, " M"], use: Use) -> Float[Tensor, " M"]:
        """One float64 in [0, 1) for each place."""
        return uniform(int(use), self.seeds[self.sample[where]], self._key(where))

    def table(self, where: Int[Tensor, " M"], columns: int, use: Use) -> Float[Tensor, "M G"]:
        """One float64 in [0, 1) for each place and column."""
        seeds = self.seeds[self.sample[where]]
        column = torch.arange(columns, device=where.device)
        key = self._key(where)[:, None] + column
        return uniform(int(use), seeds[:, None].expand_as(key), key)

    def _key(self, where: Tensor) -> Tensor:
        moment = self.moment[self.sample[where]] << (_PLACE_BITS + _COLUMN_BITS)
        return moment + (self.place[where] << _COLUMN_BITS)
