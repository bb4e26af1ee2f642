"""Reading prepared shards: ours beside a plain WebDataset pipeline over the same files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import webdataset as wds

from lightning_omni.bench.timing import ratio, take_turns
from lightning_omni.data.shards import SampleStream, shard_paths
from lightning_omni.errors import OmniError
from lightning_omni.types import Sample

_SHUFFLE = 1000


def compare_reading(
    folder: Path, task: str, *, samples: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Time reading shuffled samples of one task, parsed, in turns.

    Args:
        folder: Of code shards.
        task: Whose shards are read.
        samples: To be read in each round.
        repeats: Timed rounds.
        seed: Of both orders.

    Raises:
        OmniError: If the folder has no such shards.
    """
    paths = shard_paths(folder, task, "train")
    if not paths:
        raise OmniError(f"no training shards of '{task}' in '{folder}'; name another task")

    def plain() -> Iterator[Sample]:
        files = [str(path) for path in paths]
        source = wds.WebDataset(files, shardshuffle=len(files), seed=seed).shuffle(_SHUFFLE)
        for item in cycle(source):
            yield Sample.from_json(item["__key__"], json.loads(item["json"]))

    def ours() -> Iterator[Sample]:
        stream = SampleStream(folder, task, "train", seed=seed)
        while True:
            yield next(stream)

    def drain(make: Callable[[], Iterator[Sample]]) -> Callable[[], int]:
        return lambda: sum(1 for _ in islice(make(), samples))

    timings = take_turns({"ours": drain(ours), "plain": drain(plain)}, repeats=repeats)
    times, noise = ratio(timings["plain"], timings["ours"])
    return {
        "task": task,
        "samples": samples,
        "read_s": {name: timing.to_json() for name, timing in timings.items()},
        "samples_per_s": {name: samples / t.median for name, t in timings.items()},
        "ratio": times,
        "ratio_spread": noise,
    }


def line(row: dict[str, Any]) -> str:
    """One row in words."""
    rate = row["samples_per_s"]
    return (
        f"{row['task']}: ours {rate['ours']:.0f} samples/s, plain WebDataset {rate['plain']:.0f}, "
        f"{row['ratio']:.2f} times (+- {row['ratio_spread']:.2f})"
    )
