"""Endless training batches in lanes, dealt to processes and workers, resumed at any of them.

The stream of a run is divided into a fixed number of lanes. Each reads samples of its own, and its
position is a few numbers. Micro-batch n of the run is the next one of lane n mod `lanes`; process r
of R uses n = r, r + R, r + 2R, ... and its workers take turns at them. So the batches are the same
for any number of processes, workers and accumulation, each process reads only what its own lanes
hold, and a run goes on where it stopped on another number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_omni.data.storage.read_counts import ReadCounts
from lightning_omni.data.storage.url_reader import read_counts_so_far
from lightning_omni.errors import OmniError
from lightning_omni.stop_signals import outlive_stop_signals

Position = dict[str, Any]
"""Where a lane goes on: numbers in lists and dictionaries with names as keys."""
OpenLane = Callable[[int, Position | None], Iterator[tuple[Any, Position]]]
"""Opens a lane at a position (None: at its start); yields batches with the position behind each."""


@dataclass(frozen=True, slots=True)
class LaneBatch:
    """A batch, the lane it comes from and the lane's position behind it.

    Attributes:
        lane: Number of the lane.
        position: Position of the lane behind the batch.
        batch: The batch.
        error: Why there is no batch; None if there is one.
        process: Id of the process that made it.
        counts: What that process has fetched from URLs so far.
    """

    lane: int
    position: Position
    batch: Any
    error: str | None = None
    process: int = field(default_factory=os.getpid)
    counts: ReadCounts = field(default_factory=read_counts_so_far)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> LaneBatch:
        """Return a copy whose batch is on another device."""
        return replace(self, batch=self.batch.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> LaneBatch:
        """Return a copy whose batch is in pinned memory, or itself if there is no batch."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


@dataclass(slots=True)
class StreamPosition:
    """How far a run has come in its stream.

    Attributes:
        micro_batches: Number of batches that all processes have used.
        lanes: Position of each lane that has given a batch.
    """

    micro_batches: int = 0
    lanes: dict[int, Position] = field(default_factory=dict)


class LaneStream(IterableDataset[LaneBatch]):
    """The batches of the lanes that belong to one process, in the order in which it uses them.

    Args:
        open_lane: Opens a lane.
        lanes: Number of lanes.
        rank: Rank of this process.
        world_size: Number of processes.
        start: Where the run goes on.
    """

    def __init__(
        self,
        open_lane: OpenLane,
        *,
        lanes: int,
        rank: int = 0,
        world_size: int = 1,
        start: StreamPosition | None = None,
    ) -> None:
        self.open_lane, self.lanes = open_lane, lanes
        self.rank, self.world_size = rank, world_size
        self.start = start or StreamPosition()

    def __iter__(self) -> Iterator[LaneBatch]:
        """Yield this process's batches, or in a worker of a loader the worker's part of them."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        step = self.world_size * workers
        numbers = count(self.start.micro_batches + self.rank + self.world_size * worker, step)
        opened: dict[int, Iterator[tuple[Any, Position]]] = {}
        try:
            for number in numbers:
                lane = number % self.lanes
                if lane not in opened:
                    opened[lane] = self.open_lane(lane, self.start.lanes.get(lane))
                batch, position = next(opened[lane])
                yield LaneBatch(lane, position, batch)
        except OmniError as error:
            yield LaneBatch(-1, {}, None, error=str(error))


class _Messages(IterableDataset[list[LaneBatch]]):
    """The batches of a worker, several at a time, as they are sent to the loader."""

    def __init__(self, stream: LaneStream, batches: int) -> None:
        self.stream, self.batches = stream, batches

    def __iter__(self) -> Iterator[list[LaneBatch]]:
        batches = iter(self.stream)
        while message := list(islice(batches, self.batches)):
            yield message


class LaneLoader(DataLoader[LaneBatch]):
    """Loads a stream's batches in this process or in workers.

    A message from a worker costs both processes several changes of context, which small batches are
    not worth; so a worker sends several in one.

    Args:
        stream: Batches of this process.
        num_workers: Number of worker processes; 0 loads in this process.
        prefetch: Messages that each worker keeps ready.
        batches_per_message: Batches that a worker sends at a time.
        pin: Whether batches are put into pinned memory, from which GPUs copy beside computing.

    Raises:
        OmniError: If the lanes cannot be divided among so many processes and workers, or later, if
            a batch cannot be made.
    """

    def __init__(
        self,
        stream: LaneStream,
        *,
        num_workers: int = 0,
        prefetch: int = 2,
        batches_per_message: int = 1,
        pin: bool = False,
    ) -> None:
        check_lanes_divide(stream.lanes, stream.world_size, num_workers)
        self.stream, self.batches_per_message = stream, batches_per_message
        dataset: Any = _Messages(stream, batches_per_message) if num_workers else stream
        super().__init__(
            dataset,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin,
            prefetch_factor=prefetch if num_workers else None,
            worker_init_fn=outlive_stop_signals,
        )

    def __iter__(self) -> Iterator[LaneBatch]:  # type: ignore[override]
        """Yield batches; a worker's error is raised here."""
        arriving = super().__iter__()
        for one in self._take_turns(arriving) if self.num_workers else arriving:
            if one.error is not None:
                raise OmniError(one.error)
            yield one

    def _take_turns(self, messages: Iterator[Any]) -> Iterator[LaneBatch]:
        """Yield the batches of messages that come from the workers in turn, one of each worker."""
        while True:
            opened = []
            for message in islice(messages, self.num_workers):
                opened.append(iter(message))
                yield from islice(opened[-1], 1)
            if not opened:
                return
            for _ in range(1, self.batches_per_message):
                for message in opened:
                    yield from islice(message, 1)


def check_lanes_divide(lanes: int, world_size: int, num_workers: int) -> None:
    """Refuse processes and workers among which the lanes cannot be divided.

    Raises:
        OmniError: If processes times workers do not divide the lanes.
    """
    if lanes % world_size:
        raise OmniError(
            f"data.lanes is {lanes}, which {world_size} processes do not divide; set it to a "
            f"multiple such as {_round_up_to_multiple(world_size, lanes)} from the start of the run"
        )
    if lanes % (world_size * max(num_workers, 1)):
        fitting = [w for w in range(1, num_workers) if lanes % (world_size * w) == 0]
        raise OmniError(
            f"data.num_workers is {num_workers} for each of {world_size} processes, which do not "
            f"divide data.lanes ({lanes}); set it to {fitting[-1]}, or before the run starts, "
            f"data.lanes to {_round_up_to_multiple(world_size * num_workers, lanes)}"
        )


def merge_positions(parts: Sequence[Mapping[int, Position]]) -> dict[int, Position]:
    """Return the positions of all lanes from those of each process."""
    merged = {lane: at for part in parts for lane, at in part.items()}
    return {lane: merged[lane] for lane in sorted(merged)}


def _round_up_to_multiple(of: int, near: int) -> int:
    """Return the smallest multiple of `of` that is not below `near`."""
    return -(-near // of) * of
