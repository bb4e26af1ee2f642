"""A data module whose training batches come in lanes and are resumed at any of them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch.distributed as dist

from lightning_omni.argument_checks import check_within
from lightning_omni.data.lanes import (
    LaneBatch,
    LaneLoader,
    LaneStream,
    OpenLane,
    Position,
    StreamPosition,
    merge_positions,
)
from lightning_omni.data.sample_counts import (
    Counts,
    UsedSamples,
    check_counts,
    describe_epochs,
)
from lightning_omni.data.storage.read_counts import ReadCounts, log_read_counts, sum_read_counts
from lightning_omni.data.storage.url_reader import read_counts_so_far
from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

LANES = 64


class ResumableData(L.LightningDataModule):
    """Keeps the position of the training stream in checkpoints.

    Args:
        lanes: Lanes of the training stream, a multiple of processes times workers.
        num_workers: Worker processes that load the batches of each process; 0 for none.

    Attributes:
        latest: Lane of the last training batch, and its position before and behind it.
    """

    def __init__(self, lanes: int = LANES, num_workers: int = 0) -> None:
        super().__init__()
        check_within("data.lanes", lanes, 1)
        check_within("data.num_workers", num_workers, 0)
        self.lanes, self.num_workers = lanes, num_workers
        self.start = StreamPosition()
        self.used = 0
        self.positions: dict[int, Position] = {}
        self.latest: tuple[int, Position | None, Position] | None = None
        self.read_counts: dict[int, ReadCounts] = {}
        self.used_samples = UsedSamples()
        self.start_samples: dict[int, Counts] = {}
        self.epochs_logged: dict[str, int] = {}

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self.trainer.global_rank if self.trainer else 0

    @property
    def world_size(self) -> int:
        """Number of processes of the run."""
        return self.trainer.world_size if self.trainer else 1

    def stream_identity(self) -> dict[str, Any]:
        """Return what the positions of lanes depend on."""
        return {"lanes": self.lanes}

    def make_lane_loader(self, open_lane: OpenLane, *, batches_per_message: int = 1) -> LaneLoader:
        """Return a loader of this process's batches; end training with max_steps or max_time.

        Args:
            open_lane: Opens a lane.
            batches_per_message: Batches that a worker sends at a time.
        """
        stream = LaneStream(
            open_lane,
            lanes=self.lanes,
            rank=self.rank,
            world_size=self.world_size,
            start=self.start,
        )
        is_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return LaneLoader(
            stream,
            num_workers=self.num_workers,
            batches_per_message=batches_per_message,
            pin=is_gpu,
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note the position behind a training batch; a loader may have fetched more."""
        if not isinstance(batch, LaneBatch):
            return batch
        self.used += 1
        self.read_counts[batch.process] = batch.counts
        before = self.positions.get(batch.lane, self.start.lanes.get(batch.lane))
        self.latest = (batch.lane, before, batch.position)
        self.positions[batch.lane] = batch.position
        if batch.lane not in self.used_samples.by_lane:
            earlier = Counter(self._samples_of_earlier_batches(batch.lane, before))
            self.used_samples.by_lane[batch.lane] = earlier
        self.used_samples.add_batch(
            batch.lane,
            self.samples_in_batch(batch.batch),
            behind=self.samples_up_to(batch.lane, batch.position),
        )
        return batch.batch

    def teardown(self, stage: str) -> None:
        """Log what this process and its workers fetched from URLs, and what they had to repeat."""
        self.read_counts[os.getpid()] = read_counts_so_far()
        log_read_counts(sum_read_counts(self.read_counts.values()))

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training stream, for checkpoints; all processes call it."""
        parts = [self.start.lanes, *_gather_from_processes(self.positions)]
        positions = merge_positions(parts)
        used = self._gather_used_samples(positions)
        return {
            "micro_batches": self.start.micro_batches + self.used * self.world_size,
            "positions": {str(lane): at for lane, at in positions.items()},
            "used_samples": {str(lane): dict(counts) for lane, counts in used.items()},
            "stream": self.stream_identity(),
        }

    def samples_in_batch(self, batch: Any) -> Counts:
        """Return the samples that a training batch holds, by kind; nothing if none are counted."""
        return {}

    def samples_up_to(self, lane: int, position: Position) -> Counts:
        """Return the samples that a lane's batches up to a position hold, by kind."""
        return {}

    def samples_per_epoch(self) -> Counts:
        """Return how often the samples of each kind are used in one pass over all of them."""
        return {}

    def _samples_of_earlier_batches(self, lane: int, position: Position | None) -> Counts:
        """Return what a lane had used when the run began; earlier versions did not count it."""
        if lane in self.start_samples:
            return self.start_samples[lane]
        return {} if position is None else self.samples_up_to(lane, position)

    def _gather_used_samples(self, positions: Mapping[int, Position]) -> dict[int, Counts]:
        """Return the samples that were used of each lane, and log the epochs that are over.

        Raises:
            OmniError: If they are not those that the positions say.
        """
        parts = _gather_from_processes(self.used_samples.by_lane)
        known = {**self.start_samples, **{lane: n for part in parts for lane, n in part.items()}}
        total: Counter[str] = Counter()
        used = {}
        for lane, position in positions.items():
            drawn = self.samples_up_to(lane, position)
            used[lane] = known.get(lane, drawn)
            check_counts(lane, used[lane], drawn)
            total.update(used[lane])
        epochs = describe_epochs(total, self.samples_per_epoch(), known=self.epochs_logged)
        if epochs and self.rank == 0:
            log.info(epochs)
        return used

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position of the training stream, before the loaders are made.

        Raises:
            OmniError: If it is a position in another stream.
        """
        if "micro_batches" not in state_dict:
            log.warning(
                "the checkpoint is of an earlier version, whose position in the data has no "
                "meaning for lanes; the training data start again at the first sample"
            )
            return
        found, wanted = state_dict["stream"], self.stream_identity()
        differing = [k for k in wanted if k in found and found[k] != wanted[k]]
        if differing:
            shown = ", ".join(f"data.{k} {wanted[k]} (checkpoint: {found[k]})" for k in differing)
            raise OmniError(
                f"the checkpoint is of other training data than the recipe's: {shown}; so the data "
                "cannot go on where they stopped; restore what differs, or start a new run from "
                "the weights (model.init_from)"
            )
        lanes = {int(lane): at for lane, at in state_dict["positions"].items()}
        self.start = StreamPosition(int(state_dict["micro_batches"]), lanes)
        self.used, self.positions = 0, {}
        self.used_samples = UsedSamples()
        used = state_dict.get("used_samples", {})
        self.start_samples = {int(lane): counts for lane, counts in used.items()}


def _gather_from_processes(own: dict[int, Any]) -> list[dict[int, Any]]:
    """Return what each process has of its lanes."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    return parts
