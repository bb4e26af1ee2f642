"""Read prepared shards with this package and other readers; packing against padding."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.mixture import Mixture, PackedLanes
from lightning_omni.data.shards import shard_paths
from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.studies.bench.readers import Reader, make_readers
from lightning_omni.studies.bench.timing import paired_ratio, time_alternating
from lightning_omni.tokenizers.text import DEFAULT_RANKS, TextTokenizer
from lightning_omni.vocab import Vocab

_TAIL_PADS = {"text": 10, "speech": 16}
_PADDED_BATCH = 16


def compare_loading(
    folder: Path, task: str, *, samples: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Time the reading of shuffled, parsed samples of one task.

    The other readers are a plain WebDataset pipeline over the same shards and, if it is installed,
    litdata over its own copy of the same samples.

    Args:
        folder: Folder of code shards.
        task: Task to read.
        samples: Samples per round.
        repeats: Timed rounds.
        seed: Seed of the shuffles.

    Raises:
        OmniError: If the folder has no such shards.
    """
    if not shard_paths(folder, task, "train"):
        raise OmniError(f"no training shards of '{task}' in '{folder}'; name another task")

    def drain(make: Reader) -> Callable[[], int]:
        return lambda: sum(1 for _ in islice(make(), samples))

    with tempfile.TemporaryDirectory() as copy:
        readers = make_readers(folder, task, Path(copy), seed=seed)
        runs = {name: drain(reader) for name, reader in readers.items()}
        timings = time_alternating(runs, repeats=repeats)
    ratios = {
        name: paired_ratio(t, timings["ours"]) for name, t in timings.items() if name != "ours"
    }
    return {
        "task": task,
        "samples": samples,
        "read_s": {name: timing.to_json() for name, timing in timings.items()},
        "samples_per_s": {name: samples / t.median for name, t in timings.items()},
        "ratios": {name: found[0] for name, found in ratios.items()},
        "ratios_spread": {name: found[1] for name, found in ratios.items()},
    }


def measure_packing(
    folder: Path, tasks: list[str], *, rows: int, row_length: int, batches: int, seed: int
) -> dict[str, Any]:
    """Time reading, rendering and packing of an even mixture of tasks; compare with padding.

    Args:
        folder: Folder of code shards.
        tasks: Tasks, mixed in equal shares.
        rows: Rows per batch.
        row_length: Tokens per row.
        batches: Number of batches.
        seed: Seed of the order.
    """
    manifest = read_manifest(folder)
    text = TextTokenizer(DEFAULT_RANKS)
    template = Template(
        Vocab(text.size, manifest["spans"]),
        text,
        image_columns=manifest["image_columns"],
        codebooks=manifest["codebooks"],
        max_tail_pads=_TAIL_PADS,
        request_image_columns=manifest.get("request_image_columns"),
    )
    mixture = Mixture(folder, dict.fromkeys(tasks, 1.0), seed, lanes=1)
    packed = PackedLanes(mixture, template, rows=rows, row_length=row_length)(0, None)
    start = time.perf_counter()
    emitted = [batch for batch, _ in islice(packed, batches)]
    seconds = time.perf_counter() - start
    lengths = [
        n for b in emitted for n, task in zip(b.lengths, b.host_tasks, strict=True) if task >= 0
    ]
    used = sum(lengths)
    groups = [lengths[i : i + _PADDED_BATCH] for i in range(0, len(lengths), _PADDED_BATCH)]
    return {
        "batches": batches,
        "rows": rows,
        "row_length": row_length,
        "efficiency": used / (batches * rows * row_length),
        "padded_efficiency": sum(lengths) / sum(max(g) * len(g) for g in groups),
        "tokens_per_s": used / seconds,
    }


def describe_row(row: dict[str, Any]) -> str:
    """Return one row in words."""
    if "efficiency" in row:
        return (
            f"packing {row['batches']} batches of {row['rows']} x {row['row_length']}: "
            f"{row['efficiency']:.3f} of the tokens are of samples, padded batches "
            f"{row['padded_efficiency']:.3f}; {row['tokens_per_s']:.0f} tokens/s, "
            f"{row['times_training']:.0f} times what a training step takes"
        )
    if "tokens_per_cpu_s" in row:
        return (
            f"samples of the paper's sizes in {row['rows']} x {row['row_length']}: "
            f"{row['tokens_per_cpu_s']:.0f} tokens rendered and packed per CPU second, "
            f"{row['parsed_tokens_per_cpu_s']:.0f} with parsing"
        )
    rate = row["samples_per_s"]
    others = ", ".join(
        f"{name} {rate[name]:.0f} ({times:.2f} times +- {row['ratios_spread'][name]:.2f})"
        for name, times in row["ratios"].items()
    )
    return f"{row['task']}: ours {rate['ours']:.0f} samples/s, {others}"
