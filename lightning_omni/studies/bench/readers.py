"""Endless readers of the shuffled samples of one task."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import webdataset as wds

from lightning_omni.data.lane_reader import LaneReader
from lightning_omni.data.shard_reader import ShardReader
from lightning_omni.data.shards import list_shards, parse_sample, read_samples, shard_paths
from lightning_omni.types import Sample

Reader = Callable[[], Iterator[Sample]]
_SHUFFLE = 1000
_CHUNK = "16MB"


def make_readers(folder: Path, task: str, copy: Path, *, seed: int) -> dict[str, Reader]:
    """Return this package's reader, a plain WebDataset pipeline and, if installed, litdata.

    Args:
        folder: Folder of code shards.
        task: Task to read.
        copy: Empty folder for litdata's own copy of the samples.
        seed: Seed of the shuffles.
    """
    readers: dict[str, Reader] = {
        "ours": partial(_read_ours, folder, task, seed),
        "webdataset": partial(_read_webdataset, folder, task, seed),
    }
    try:
        litdata: Any = importlib.import_module("litdata")
    except ImportError:
        return readers
    samples = read_samples(folder, task, "train")
    litdata.optimize(
        fn=bytes,
        inputs=[json.dumps({"key": s.key, **s.to_json()}).encode() for s in samples],
        output_dir=str(copy),
        num_workers=1,
        chunk_bytes=_CHUNK,
        verbose=False,
    )
    return {**readers, "litdata": partial(_read_litdata, litdata, copy, seed)}


def _read_ours(folder: Path, task: str, seed: int) -> Iterator[Sample]:
    shards = list_shards(folder, task, "train")
    lane = LaneReader(ShardReader(shards, lanes=1, seed=str(seed)), 0)
    while True:
        yield parse_sample(*next(lane))


def _read_webdataset(folder: Path, task: str, seed: int) -> Iterator[Sample]:
    files = [str(path) for path in shard_paths(folder, task, "train")]
    source = wds.WebDataset(files, shardshuffle=len(files), seed=seed).shuffle(_SHUFFLE)
    while True:
        for item in source:
            yield Sample.from_json(item["__key__"], json.loads(item["json"]))


def _read_litdata(litdata: Any, copy: Path, seed: int) -> Iterator[Sample]:
    stored = litdata.StreamingDataset(str(copy), shuffle=True, seed=seed)
    while True:
        for raw in stored:
            plain = json.loads(bytes(raw))
            yield Sample.from_json(plain.pop("key"), plain)
