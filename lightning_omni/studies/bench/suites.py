"""What each suite of the benchmark measures, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning_omni.errors import OmniError
from lightning_omni.studies.bench import data, sample, scale, train
from lightning_omni.studies.bench.peak_memory import DTYPES, peak_mb
from lightning_omni.studies.bench.sample import Canvases
from lightning_omni.studies.bench.timing import take_turns
from lightning_omni.studies.bench.workload import Shape

Suite = Literal["train", "sample", "memory", "data", "scale"]
Row = dict[str, Any]
_SAMPLES = 5000
_MEMORY_STEPS = 16
_ROWS, _ROW_LENGTH, _BATCHES = 4, 512, 200


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the `bench` verb."""

    shapes: list[Shape]
    dtype: Literal["float32", "bfloat16"]
    canvases: Canvases
    steps: list[int]
    batches: list[int]
    cache_interval: int
    repeats: int
    memory: bool
    codes: Path | None
    seed: int


def _train(o: Options) -> Iterator[Row]:
    for shape in o.shapes:
        dtype = DTYPES[o.dtype]
        row = train.compare_training(shape, dtype=dtype, repeats=o.repeats, seed=o.seed)
        if o.memory:
            row["peak_mb"] = {s: peak_mb(s, shape, o.dtype, o.seed) for s in ("ours", "peer")}
        yield row


def _sample(o: Options) -> Iterator[Row]:
    for shape in o.shapes:
        yield from sample.compare_sampling(
            shape, o.canvases, steps=o.steps, repeats=o.repeats, seed=o.seed
        )


def _memory(o: Options) -> Iterator[Row]:
    """A picture behind a sentence, and a short answer behind a picture."""
    short = Canvases(o.canvases.answer, max(1, o.canvases.prompt // 4))
    for canvases in (o.canvases, short):
        for batch in o.batches:
            yield sample.compare_memories(
                o.shapes[0],
                replace(canvases, batch=batch),
                steps=min(_MEMORY_STEPS, canvases.answer),
                cache_interval=o.cache_interval,
                repeats=o.repeats,
                seed=o.seed,
            )


def _data(o: Options) -> Iterator[Row]:
    if o.codes is None:
        raise OmniError("the suite data needs --codes, a folder such as data/mini/codes/<name>")
    tasks = sorted({path.name.split("-")[0] for path in o.codes.glob("*-train-*.tar")})
    if not tasks:
        raise OmniError(f"no training shards in '{o.codes}'; give a folder of code shards")
    for task in tasks:
        yield data.compare_reading(o.codes, task, samples=_SAMPLES, repeats=o.repeats, seed=o.seed)
    shape = o.shapes[0]
    row = data.measure_packing(
        o.codes,
        tasks,
        rows=_ROWS,
        row_length=max(_ROW_LENGTH, shape.longest),
        batches=_BATCHES,
        seed=o.seed,
    )
    step = train.make_step("ours", shape, dtype=DTYPES[o.dtype], seed=o.seed)
    seconds = take_turns({"step": step}, repeats=o.repeats)["step"].median
    yield {**row, "times_training": row["tokens_per_s"] * seconds / shape.tokens}


def _scale(o: Options) -> Iterator[Row]:
    yield from scale.measure_growth(o.shapes[0], repeats=o.repeats, seed=o.seed, memory=o.memory)


SUITES: dict[Suite, Callable[[Options], Iterator[Row]]] = {
    "train": _train,
    "sample": _sample,
    "memory": _memory,
    "data": _data,
    "scale": _scale,
}
LINES: dict[Suite, Callable[[Row], str]] = {
    "train": train.line,
    "sample": sample.line,
    "memory": sample.line,
    "data": data.line,
    "scale": scale.line,
}
