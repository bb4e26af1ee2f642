"""Streams of shuffled samples of this package and of others: rate, time to resume, memory.

`python -m lightning_omni.studies.bench.streams FOLDER TASK` prints a table. Each reader runs in a
process of its own, over the same samples as JSON; MosaicML Streaming, where it is installed, reads
its own copy of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import webdataset as wds

from lightning_omni.data.lane_reader import LaneReader
from lightning_omni.data.shard_reader import ShardReader
from lightning_omni.data.shards import list_shards, read_shard
from lightning_omni.errors import OmniError
from lightning_omni.studies.bench.peak_memory import read_peak_mb, start_peak_meter

_SHUFFLE = 1000
Stream = Callable[[Path, str, int], Iterator[bytes]]
"""Yields the samples of a folder and task, as JSON, behind the first so many."""


def read_own_stream(folder: Path, task: str, start: int) -> Iterator[bytes]:
    """Read one lane; a cursor is a number of pools and a number of samples."""
    reader = ShardReader(list_shards(folder, task, "train"), lanes=1, seed="0")
    turn = 0
    while start >= reader.order.pool_size(turn):
        start -= reader.order.pool_size(turn)
        turn += 1
    lane = LaneReader(reader, 0, (turn, start))
    while True:
        yield next(lane)[1]["json"]


def read_webdataset_stream(folder: Path, task: str, start: int) -> Iterator[bytes]:
    """Read shuffled shards through a buffer; without a state, earlier samples are read again."""
    files = [str(shard.path) for shard in list_shards(folder, task, "train")]
    source = wds.WebDataset(files, shardshuffle=len(files), seed=0).shuffle(_SHUFFLE).repeat()
    for item in islice(source, start, None):
        yield item["json"]


def read_mosaicml_stream(folder: Path, task: str, start: int) -> Iterator[bytes]:
    """Read a copy in MosaicML's format, which `copy_to_mosaicml` wrote beside the shards."""
    streaming: Any = importlib.import_module("streaming")
    util: Any = importlib.import_module("streaming.base.util")
    util.clean_stale_shared_memory()
    stored = streaming.StreamingDataset(
        local=str(folder), shuffle=True, batch_size=1, predownload=_SHUFFLE
    )
    if start:
        state = stored.state_dict(0, from_beginning=True)
        stored.load_state_dict({**(state or {}), **_make_mosaicml_state(stored, start)})
    while True:
        for item in stored:
            yield item["json"]


def copy_to_mosaicml(folder: Path, task: str, out: Path) -> None:
    """Write the samples of a task in MosaicML's format."""
    streaming: Any = importlib.import_module("streaming")
    with streaming.MDSWriter(out=str(out), columns={"json": "bytes"}, size_limit="16mb") as writer:
        for shard in list_shards(folder, task, "train"):
            for _, files in read_shard(shard.path):
                writer.write({"json": files["json"]})


STREAMS: dict[str, Stream] = {
    "ours": read_own_stream,
    "webdataset": read_webdataset_stream,
    "mosaicml": read_mosaicml_stream,
}


def measure_stream(
    name: str, folder: Path, task: str, *, start: int, samples: int
) -> dict[str, float]:
    """Return seconds to the first sample, samples per second behind it, and memory in MB.

    Memory is the peak of this process, of which a part is measured since the package was imported.
    """
    importlib.import_module("streaming" if name == "mosaicml" else "webdataset")
    memory_since = start_peak_meter()
    begin = time.perf_counter()
    stream = STREAMS[name](folder, task, start)
    json.loads(next(stream))
    first = time.perf_counter()
    for content in islice(stream, samples):
        json.loads(content)
    seconds = time.perf_counter() - first
    return {
        "first_s": first - begin,
        "samples_per_s": samples / seconds,
        "memory_mb": memory_since(),
        "peak_mb": read_peak_mb(),
    }


def compare_streams(folder: Path, task: str, *, starts: list[int], samples: int) -> str:
    """Return a table of all streams at several numbers of samples to resume behind."""
    lines = ["stream      resumed at  first sample (s)  samples/s  memory (MB)  process (MB)"]
    with tempfile.TemporaryDirectory() as copy:
        names = [name for name in STREAMS if name != "mosaicml"]
        if importlib.util.find_spec("streaming") is not None:
            copy_to_mosaicml(folder, task, Path(copy) / "mds")
            names.append("mosaicml")
        for start in starts:
            for name in names:
                source = Path(copy) / "mds" if name == "mosaicml" else folder
                found = _measure_in_process(name, source, task, start, samples)
                lines.append(
                    f"{name:<10}  {start:>10,}  {found['first_s']:>16.3f}  "
                    f"{found['samples_per_s']:>9,.0f}  {found['memory_mb']:>11.1f}  "
                    f"{found['peak_mb']:>12.1f}"
                )
    return "\n".join(lines)


def _measure_in_process(
    name: str, folder: Path, task: str, start: int, samples: int
) -> dict[str, float]:
    args = [str(folder), task, "--stream", name, "--starts", str(start), "--samples", str(samples)]
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, *args], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OmniError(f"the stream {name} failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _make_mosaicml_state(stored: Any, start: int) -> dict[str, Any]:
    return {
        "epoch": 0,
        "sample_in_epoch": start,
        "num_canonical_nodes": stored.num_canonical_nodes or 1,
        "shuffle_seed": stored.shuffle_seed,
        "initial_physical_nodes": 1,
    }


def main() -> None:
    """Print the table, or in a process of its own what one stream takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("task")
    parser.add_argument("--starts", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--stream", choices=sorted(STREAMS))
    args = parser.parse_args()
    if args.stream is None:
        table = compare_streams(args.folder, args.task, starts=args.starts, samples=args.samples)
    else:
        found = measure_stream(
            args.stream, args.folder, args.task, start=args.starts[0], samples=args.samples
        )
        table = json.dumps(found)
    sys.stdout.write(table + "\n")


if __name__ == "__main__":
    main()
