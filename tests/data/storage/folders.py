"""A prepared folder of numbered samples, and the numbers of its stream."""

import json
from itertools import islice
from pathlib import Path

import torch
from tar_files import write_tar

from lightning_omni.data.lane_reader import LaneReader
from lightning_omni.data.lanes import LaneLoader, LaneStream
from lightning_omni.data.shard_index import write_index
from lightning_omni.data.shard_reader import ShardReader
from lightning_omni.data.shards import list_shards

LANES = 4


def write_folder(folder, *, shards, samples, size=40):
    """Write encoded shards of a task whose samples are numbers with `size` bytes behind them."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for s in range(shards):
        path = folder / f"tqa-train-{s:06d}.tar"
        files = [
            (f"k{s}-{i}.txt", f"{samples * s + i:08d}".encode() + bytes(size))
            for i in range(samples)
        ]
        write_index(write_tar(path, files))
        counts[path.name] = samples
    (folder / "manifest.json").write_text(json.dumps({"samples": counts}))
    return folder


class Numbers:
    """Lanes of batches of the numbers of eight samples."""

    def __init__(self, folder, lanes=LANES):
        self.folder, self.lanes = folder, lanes
        self.reader = None

    def __call__(self, lane, position):
        if self.reader is None:
            shards = list_shards(self.folder, "tqa", "train")
            self.reader = ShardReader(shards, lanes=self.lanes, seed="1")
        source = LaneReader(self.reader, lane)
        while True:
            read = [int(files["txt"][:8]) for _, files, _ in islice(iter(source.__next__, 0), 8)]
            yield torch.tensor(read), {"cursor": list(source.cursor)}


def batches(folder, *, count, workers=0, lanes=LANES):
    """Return the first batches of a folder's stream, each with its counts."""
    stream = LaneStream(Numbers(folder, lanes), lanes=lanes)
    return list(islice(iter(LaneLoader(stream, num_workers=workers)), count))


def numbers(found):
    return [one.batch.tolist() for one in found]


def copied(source: Path, target: Path):
    """Copy the files of a folder, without folders below."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target
