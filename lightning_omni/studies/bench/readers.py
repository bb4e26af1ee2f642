"""Ways to read shuffled samples of one task for ever."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import webdataset as wds

from lightning_omni.data.shards import SampleStream, read_samples, shard_paths
from lightning_omni.types import Sample

Reader = Callable[[], Iterator[Sample]]
_SHUFFLE = 1000
_CHUNK = "16MB"


def make_readers(folder: Path, task: str, copy: Path, *, seed: int) -> dict[str, Reader]:
    """Ours, a plain WebDataset pipeline and, where it is installed, litdata.

    Args:
        folder: Of code shards.
        task: Whose training shards are read.
        copy: Empty folder, where litdata stores the same samples its own way.
        seed: Of all orders.
    """
    readers: dict[str, Reader] = {
        "ours": partial(_ours, folder, task, seed),
        "webdataset": partial(_webdataset, folder, task, seed),
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
    return {**readers, "litdata": partial(_litdata, litdata, copy, seed)}


def _ours(folder: Path, task: str, seed: int) -> Iterator[Sample]:
    stream = SampleStream(folder, task, "train", seed=seed)
    while True:
        yield next(stream)


def _webdataset(folder: Path, task: str, seed: int) -> Iterator[Sample]:
    files = [str(path) for path in shard_paths(folder, task, "train")]
    source = wds.WebDataset(files, shardshuffle=len(files), seed=seed).shuffle(_SHUFFLE)
    while True:
        for item in source:
            yield Sample.from_json(item["__key__"], json.loads(item["json"]))


def _litdata(litdata: Any, copy: Path, seed: int) -> Iterator[Sample]:
    stored = litdata.StreamingDataset(str(copy), shuffle=True, seed=seed)
    while True:
        for raw in stored:
            plain = json.loads(bytes(raw))
            yield Sample.from_json(plain.pop("key"), plain)
