"""Endless training batches, which a resumed run continues where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset


class EndlessBatches(IterableDataset[Tensor]):
    """Batches drawn by number; the ranks of a run take turns.

    Args:
        draw: Returns batch n of the run, a function of n alone.
        rank: Rank of this process.
        world_size: Number of processes of the run.
        first_batch: Number of batches this process has already used.
    """

    def __init__(
        self, draw: Callable[[int], Tensor], *, rank: int, world_size: int, first_batch: int
    ) -> None:
        self.draw, self.rank, self.world_size = draw, rank, world_size
        self.first_batch = first_batch

    def __iter__(self) -> Iterator[Tensor]:
        """Yield this rank's batches from `first_batch` on."""
        return (self.draw(n * self.world_size + self.rank) for n in count(self.first_batch))


class ResumableData(L.LightningDataModule):
    """Counts the training batches used and keeps the count in checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.batches_used = 0

    @property
    def stream_start(self) -> dict[str, int]:
        """Start of this process's training stream: `rank`, `world_size`, `first_batch`."""
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return {"rank": rank, "world_size": world_size, "first_batch": self.batches_used}

    def endless(self, draw: Callable[[int], Tensor]) -> DataLoader[Tensor]:
        """Return a loader of the batches of `draw`; end training with max_steps or max_time."""
        return DataLoader(EndlessBatches(draw, **self.stream_start), batch_size=None)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count the training batches used; a loader may have fetched more."""
        if self.trainer is not None and self.trainer.training:
            self.batches_used += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training stream, for checkpoints."""
        world_size = self.stream_start["world_size"]
        return {"batches_used": self.batches_used, "world_size": world_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position of the training stream, before the loaders are made.

        On another number of processes each one goes on behind the batches that all have used, to
        the nearest whole batch of its own.
        """
        world_size = self.stream_start["world_size"]
        used = int(state_dict["batches_used"]) * int(state_dict.get("world_size", world_size))
        self.batches_used = used // world_size
