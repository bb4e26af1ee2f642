"""The batches of a run are the same for any number of processes and workers, and after resuming."""

import copy
import json
from collections import Counter
from itertools import islice

import pytest
import torch
from tar_files import write_tar

from lightning_omni.data.lane_reader import LaneReader
from lightning_omni.data.lanes import LaneBatch, LaneLoader, LaneStream, StreamPosition
from lightning_omni.data.shard_index import write_index
from lightning_omni.data.shard_reader import ShardReader
from lightning_omni.data.shards import Shard
from lightning_omni.errors import OmniError

LANES = 8
SIZES = (11, 7, 20)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    found = []
    for s, size in enumerate(SIZES):
        path = folder / f"x-train-{s:06d}.tar"
        write_tar(path, [(f"k{s}-{i}.txt", str(100 * s + i).encode()) for i in range(size)])
        write_index(path)
        found.append(Shard(path, size))
    return found


class Numbers:
    """Lanes of batches of three numbers, one for each sample."""

    def __init__(self, shards):
        self.shards = shards

    def __call__(self, lane, position):
        reader = ShardReader(self.shards, lanes=LANES, seed="1")
        source = LaneReader(reader, lane, tuple((position or {"cursor": (0, 0)})["cursor"]))
        while True:
            read = [int(files["txt"]) for _, files, _ in islice(source_of(source), 3)]
            yield torch.tensor(read), {"cursor": list(source.cursor)}


def source_of(lane):
    while True:
        yield next(lane)


class Failing:
    def __call__(self, lane, position):
        raise OmniError("'x.tar' is damaged")
        yield


class Run:
    """Loaders of all processes of a run that use their batches in step."""

    def __init__(self, shards, *, processes, workers, together=1, start=None):
        self.processes = processes
        self.start = start or StreamPosition()
        self.loaders = [
            iter(
                LaneLoader(
                    LaneStream(
                        Numbers(shards),
                        lanes=LANES,
                        rank=rank,
                        world_size=processes,
                        start=self.start,
                    ),
                    num_workers=workers,
                    batches_per_message=together,
                )
            )
            for rank in range(processes)
        ]
        self.position = copy.deepcopy(self.start)

    def take(self, steps):
        found = []
        for _ in range(steps):
            for loader in self.loaders:
                one = next(loader)
                self.position.lanes[one.lane] = one.position
                self.position.micro_batches += 1
                found.append(one.batch.tolist())
        return found


@pytest.fixture(scope="module")
def whole(shards):
    return Run(shards, processes=1, workers=0).take(64)


@pytest.mark.parametrize(
    ("processes", "workers", "together"),
    [(1, 2, 1), (2, 0, 1), (4, 0, 1), (2, 2, 4), (8, 0, 1), (1, 2, 3), (1, 1, 5)],
)
def test_the_batches_are_the_same_for_any_number_of_processes_and_workers(
    shards, whole, processes, workers, together
):
    run = Run(shards, processes=processes, workers=workers, together=together)
    assert run.take(32 // processes) == whole[:32]


def test_a_run_resumed_on_other_layouts_goes_on_where_it_stopped(shards, whole):
    found, position = [], None
    for processes, workers, steps in ((2, 0, 5), (4, 0, 3), (1, 2, 9), (1, 0, 7), (8, 0, 2)):
        run = Run(shards, processes=processes, workers=workers, start=position)
        found += run.take(steps)
        state = json.loads(json.dumps(run.position.lanes))
        lanes = {int(lane): at for lane, at in state.items()}
        position = StreamPosition(run.position.micro_batches, lanes)
    assert found == whole[: len(found)]
    assert len(found) == 10 + 12 + 9 + 7 + 16


def test_all_samples_come_equally_often(shards):
    run = Run(shards, processes=1, workers=0)
    counts = Counter(n for batch in run.take(38 * LANES) for n in batch)
    assert len(counts) == sum(SIZES)
    assert max(counts.values()) - min(counts.values()) <= 2 * LANES
    assert min(counts.values()) > 0


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_all_processes_together_read_every_byte_of_an_epoch_once(shards, processes):
    class CountingReader(ShardReader):
        def _read_bytes(self, path, offset, size, checksum):
            read.append(size)
            return super()._read_bytes(path, offset, size, checksum)

    read = []
    for rank in range(processes):
        reader = CountingReader(shards, lanes=LANES, seed="1")
        for number in range(rank, LANES, processes):
            lane = LaneReader(reader, number)
            while lane.cursor[0] == 0:  # with so few samples an epoch has one pool for each lane
                next(lane)
    assert sum(read) == sum(SIZES) * 1024  # a header and a block for each sample


@pytest.mark.parametrize(
    ("world_size", "workers", "words"),
    [
        (3, 0, "data.lanes is 8, which 3 processes do not divide; set it to a multiple such as 9"),
        (2, 3, "data.num_workers is 3 for each of 2 processes.*set it to 2"),
    ],
)
def test_a_layout_that_does_not_divide_the_lanes_is_refused(shards, world_size, workers, words):
    stream = LaneStream(Numbers(shards), lanes=LANES, rank=0, world_size=world_size)
    with pytest.raises(OmniError, match=words):
        LaneLoader(stream, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_same_sentence(workers):
    loader = LaneLoader(LaneStream(Failing(), lanes=LANES), num_workers=workers)
    with pytest.raises(OmniError, match=r"^'x\.tar' is damaged$"):
        next(iter(loader))


class FailingLater(Numbers):
    """Lanes of which the one with number 5 fails at its second batch."""

    def __call__(self, lane, position):
        for turn, found in enumerate(super().__call__(lane, position)):
            if lane == 5 and turn == 1:
                raise OmniError("'x.tar' is damaged")
            yield found


@pytest.mark.parametrize(("workers", "together"), [(0, 1), (2, 1), (2, 4), (2, 3)])
def test_batches_before_an_error_come_first(shards, whole, workers, together):
    stream = LaneStream(FailingLater(shards), lanes=LANES)
    loader = iter(LaneLoader(stream, num_workers=workers, batches_per_message=together))
    found = [next(loader).batch.tolist() for _ in range(LANES + 5)]
    assert found == whole[: LANES + 5]
    with pytest.raises(OmniError, match=r"^'x\.tar' is damaged$"):
        next(loader)


def test_a_batch_moves_with_its_position():
    one = LaneBatch(3, {"cursor": [0, 1]}, torch.ones(2))
    moved = one.to("cpu")
    assert (moved.lane, moved.position) == (3, {"cursor": [0, 1]})


def test_a_shard_that_lost_samples_is_named(shards):
    fewer = [Shard(shards[0].path, SIZES[0] + 1)]
    reader = ShardReader(fewer, lanes=1, seed="1")
    with pytest.raises(OmniError, match=r"000000\.tar' is damaged: 11 of 12 samples"):
        next(LaneReader(reader, 0))


def test_shards_without_samples_are_refused(shards):
    with pytest.raises(OmniError, match="hold no samples"):
        ShardReader([Shard(shards[0].path, 0)], lanes=1, seed="1")
