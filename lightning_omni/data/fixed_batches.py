"""Batches of validation and tests, dealt to processes so that each is seen once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_omni.types import Batch


class FixedBatches(IterableDataset[Batch]):
    """The batches of one process.

    All processes have as many, since a forward pass of shared weights needs every process: where
    the batches run out, ones without a loss follow.
    """

    def __init__(self, batches: Sequence[Batch], *, rank: int, world_size: int) -> None:
        missing = -len(batches) % world_size
        every = [*batches, *(remove_targets(batches[0]) for _ in range(missing))]
        self.own = every[rank::world_size]

    def __iter__(self) -> Iterator[Batch]:
        """Yield this process's batches."""
        return iter(self.own)


def make_fixed_loader(batches: Sequence[Batch], *, rank: int, world_size: int) -> DataLoader[Batch]:
    """Return a loader of this process's part of the batches."""
    return DataLoader(FixedBatches(batches, rank=rank, world_size=world_size), batch_size=None)


def remove_targets(batch: Batch) -> Batch:
    """Return the batch with nothing to be predicted."""
    nothing = torch.zeros_like(batch.maskable)
    return replace(
        batch,
        maskable=nothing,
        is_tail_pad=nothing,
        is_answer=nothing,
        modality=torch.full_like(batch.modality, -1),
        num_maskable=0,
    )
