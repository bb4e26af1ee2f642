"""Tokens rendered and packed per CPU second of each process: alone, beside others, as workers.

`python -m lightning_omni.studies.bench.loader_workers` prints a table. Samples have the sizes and
the mixture of the paper and are parsed each time. The control is as many processes that share
nothing: what they lose beside each other, in caches and memory, workers lose too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from random import Random

import torch

from lightning_omni.data.lanes import LaneBatch, LaneLoader, LaneStream, Position
from lightning_omni.data.mixture import choose_next_task
from lightning_omni.data.omni_data import BATCHES_PER_MESSAGE
from lightning_omni.data.packing import Indexed, pack_stream
from lightning_omni.data.resumable_data import LANES
from lightning_omni.data.shards import parse_sample
from lightning_omni.studies.bench.rendering import (
    SHARES,
    count_used_tokens,
    make_paper_files,
    make_paper_template,
)
from lightning_omni.types import Batch

_ROW_LENGTH = 3072
_WARM_UP = 2 * LANES


class RenderedLanes:
    """Lanes of samples in memory; a position is the process, its CPU seconds and the tokens."""

    def __init__(self) -> None:
        self.template, self.files = make_paper_template(), make_paper_files(seed=0)

    def __call__(self, lane: int, position: Position | None) -> Iterator[tuple[Batch, Position]]:
        """Yield batches without end."""
        packed = pack_stream(
            self._render(),
            rows=1,
            row_length=_ROW_LENGTH,
            pad_token_id=self.template.vocab.pad_token_id,
        )
        for batch in packed:
            used = count_used_tokens(batch)
            yield batch, {"process": os.getpid(), "cpu_s": time.process_time(), "tokens": used}

    def _render(self) -> Iterator[Indexed]:
        served, memory = dict.fromkeys(SHARES, 0), Path("memory")
        for index in count():
            kept = self.files[choose_next_task(SHARES, served)]
            sample = parse_sample(str(index), kept[index % len(kept)], memory)
            yield index, self.template.render(sample, rng=Random(f"0-{index}"))


def measure_workers(batches: int, workers: int, *, batches_per_message: int) -> list[float]:
    """Return the tokens per CPU second of each worker of a loader.

    Args:
        batches: Batches of each worker, behind the first ones, which open the lanes.
        workers: Number of workers.
        batches_per_message: Batches that a worker sends at a time.
    """
    loader = LaneLoader(
        LaneStream(RenderedLanes(), lanes=LANES),
        num_workers=workers,
        batches_per_message=batches_per_message,
    )
    return _tokens_per_cpu_s(islice(loader, workers * (batches + _WARM_UP)))


def measure_processes(batches: int, processes: int) -> list[float]:
    """Return the tokens per CPU second of each of several processes without loaders.

    Args:
        batches: Batches of each process, behind the first ones.
        processes: Number of processes, which run at the same time.
    """
    context = multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    started = [context.Process(target=_run_alone, args=(batches, found)) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [found.get() for _ in started]


def _run_alone(batches: int, found: SimpleQueue[float]) -> None:
    torch.set_num_threads(1)
    stream = LaneStream(RenderedLanes(), lanes=LANES)
    found.put(*_tokens_per_cpu_s(islice(stream, batches + _WARM_UP)))


def _tokens_per_cpu_s(batches: Iterable[LaneBatch]) -> list[float]:
    of_process = defaultdict[int, list[tuple[float, int]]](list)
    for one in batches:
        at = one.position
        of_process[at["process"]].append((at["cpu_s"], at["tokens"]))
    rates = []
    for made in of_process.values():
        (start, _), *measured = made[_WARM_UP - 1 :]
        rates.append(sum(tokens for _, tokens in measured) / (measured[-1][0] - start))
    return rates


def compare_processes(*, batches: int, repeats: int) -> str:
    """Return a table of medians over interleaved runs, with ratios within a run.

    Args:
        batches: Batches of each process.
        repeats: Runs.
    """
    kinds: dict[str, Callable[[], list[float]]] = {
        "one process": lambda: measure_processes(batches, 1),
        "each of 2 processes that share nothing": lambda: measure_processes(batches, 2),
    }
    for together in (1, BATCHES_PER_MESSAGE):
        for workers in (1, 2):
            name = f"each of {workers} workers, {together} batches a message"
            kinds[name] = lambda w=workers, t=together: measure_workers(  # type: ignore[misc]
                batches, w, batches_per_message=t
            )
    runs = [{name: measure() for name, measure in kinds.items()} for _ in range(repeats)]
    alone, beside = list(kinds)[:2]
    lines = [
        "| | thousand tokens per CPU second | of one process | of each of 2 processes |",
        "|---|---|---|---|",
    ]
    for name in kinds:
        rates = [rate for run in runs for rate in run[name]]
        ratios = [
            statistics.median(
                statistics.mean(run[name]) / statistics.mean(run[base]) for run in runs
            )
            for base in (alone, beside)
        ]
        lines.append(
            f"| {name} | {statistics.median(rates) / 1e3:,.0f} ({min(rates) / 1e3:,.0f} to "
            f"{max(rates) / 1e3:,.0f}) | {ratios[0]:.2f} | {ratios[1]:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = compare_processes(batches=args.batches, repeats=args.repeats)
    sys.stdout.write(f"{table}\nload {os.getloadavg()}\n")


if __name__ == "__main__":
    main()
