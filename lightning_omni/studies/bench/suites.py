"""The suites of the benchmark, each a generator of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning_omni.errors import OmniError
from lightning_omni.studies.bench import (
    data_loading,
    growth,
    number_formats,
    rendering,
    sampling,
    training_steps,
)
from lightning_omni.studies.bench.peak_memory import DTYPES, measure_peak_mb
from lightning_omni.studies.bench.sampling import RequestShape
from lightning_omni.studies.bench.timing import time_alternating
from lightning_omni.studies.bench.workload import Shape

Suite = Literal["train", "sample", "cache", "data", "scale", "formats"]
BenchRow = dict[str, Any]
"""A row of `<suite>.json`."""
_SAMPLES = 5000
_CACHE_STEPS = 16
_ROWS, _ROW_LENGTH, _BATCHES = 4, 512, 200


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the `bench` verb."""

    shapes: list[Shape]
    dtype: Literal["float32", "bfloat16"]
    request: RequestShape
    steps: list[int]
    batches: list[int]
    cache_interval: int
    repeats: int
    memory: bool
    codes: Path | None
    seed: int


def _run_train_suite(o: Options) -> Iterator[BenchRow]:
    for shape in o.shapes:
        dtype = DTYPES[o.dtype]
        row = training_steps.compare_training(shape, dtype=dtype, repeats=o.repeats, seed=o.seed)
        if o.memory:
            row["peak_mb"] = {
                s: measure_peak_mb(s, shape, o.dtype, o.seed) for s in training_steps.SIDES
            }
        yield row


def _run_sample_suite(o: Options) -> Iterator[BenchRow]:
    for shape in o.shapes:
        yield from sampling.compare_sampling(
            shape, o.request, steps=o.steps, repeats=o.repeats, seed=o.seed
        )


def _run_cache_suite(o: Options) -> Iterator[BenchRow]:
    """Measure a picture after a sentence, and a short answer after a picture."""
    short = RequestShape(o.request.answer, max(1, o.request.prompt // 4))
    for request in (o.request, short):
        for batch in o.batches:
            yield sampling.compare_caching(
                o.shapes[0],
                replace(request, batch=batch),
                steps=min(_CACHE_STEPS, request.answer),
                cache_interval=o.cache_interval,
                repeats=o.repeats,
                seed=o.seed,
            )


def _run_data_suite(o: Options) -> Iterator[BenchRow]:
    if o.codes is None:
        raise OmniError("the suite data needs --codes, a folder such as data/mini/codes/<name>")
    tasks = sorted({path.name.split("-")[0] for path in o.codes.glob("*-train-*.tar")})
    if not tasks:
        raise OmniError(f"no training shards in '{o.codes}'; give a folder of code shards")
    for task in tasks:
        yield data_loading.compare_loading(
            o.codes, task, samples=_SAMPLES, repeats=o.repeats, seed=o.seed
        )
    shape = o.shapes[0]
    row = data_loading.measure_packing(
        o.codes,
        tasks,
        rows=_ROWS,
        row_length=max(_ROW_LENGTH, shape.longest),
        batches=_BATCHES,
        seed=o.seed,
    )
    step = training_steps.make_training_step("ours", shape, dtype=DTYPES[o.dtype], seed=o.seed)
    seconds = time_alternating({"step": step}, repeats=o.repeats)["step"].median
    yield {**row, "times_training": row["tokens_per_s"] * seconds / shape.tokens}
    yield rendering.measure_rendering(
        rendering.make_paper_template(),
        rendering.make_paper_files(seed=o.seed),
        rendering.SHARES,
        batches=_BATCHES,
        repeats=o.repeats,
        seed=o.seed,
    )


def _run_scale_suite(o: Options) -> Iterator[BenchRow]:
    yield from growth.measure_growth(o.shapes[0], repeats=o.repeats, seed=o.seed, memory=o.memory)


def _run_formats_suite(o: Options) -> Iterator[BenchRow]:
    for name in number_formats.NETWORKS:
        yield number_formats.compare_formats(
            name, device=o.shapes[0].device, repeats=o.repeats, seed=o.seed
        )


SUITES: dict[Suite, Callable[[Options], Iterator[BenchRow]]] = {
    "train": _run_train_suite,
    "sample": _run_sample_suite,
    "cache": _run_cache_suite,
    "data": _run_data_suite,
    "scale": _run_scale_suite,
    "formats": _run_formats_suite,
}
LINES: dict[Suite, Callable[[BenchRow], str]] = {
    "train": training_steps.describe_row,
    "sample": sampling.describe_row,
    "cache": sampling.describe_row,
    "data": data_loading.describe_row,
    "scale": growth.describe_row,
    "formats": number_formats.describe_row,
}
