"""Growth of the cost of training steps and of sampling, with fitted exponents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lightning_omni.studies.bench.peak_memory import measure_peak_mb
from lightning_omni.studies.bench.sampling import RequestShape, sample_with_this_package
from lightning_omni.studies.bench.timing import synchronize, time_alternating
from lightning_omni.studies.bench.training_steps import our_loss
from lightning_omni.studies.bench.workload import Shape, make_network, make_samples

TOKENS = (256, 512, 1024, 2048, 4096, 8192)
SEGMENT_LENGTHS = (128, 256, 512, 1024, 2048)
VOCAB_SIZES = (20_000, 65_536, 131_072, 262_144)
STEPS = (4, 8, 16, 32)
BATCHES = (1, 2, 4, 8, 16)
_SEGMENT_TOKENS = 2048
_PROMPT, _ANSWER = 64, 64


def measure_growth(
    shape: Shape, *, repeats: int, seed: int, memory: bool
) -> Iterator[dict[str, Any]]:
    """Time training steps and sampling while one size at a time grows.

    The exponent is the slope of log time against log size: 1 is linear, 0 is constant. Peak memory
    is that of training steps with AdamW in a fresh process, weights included.
    """
    training: dict[str, dict[int, Shape]] = {
        "tokens": {n: replace(shape, tokens=n, longest=min(n, shape.longest)) for n in TOKENS},
        "segment_length": {
            n: replace(shape, tokens=_SEGMENT_TOKENS, shortest=n, longest=n)
            for n in SEGMENT_LENGTHS
        },
        "vocab_size": {n: replace(shape, vocab_size=n) for n in VOCAB_SIZES},
    }
    for name, shapes in training.items():
        seconds = {
            n: _measure_median_seconds(_make_gradient_step(s, seed=seed), repeats)
            for n, s in shapes.items()
        }
        row = _make_growth_row(f"training step, {name}", seconds)
        if memory:
            row["peak_mb"] = {
                n: measure_peak_mb("ours", s, "bfloat16", seed) for n, s in shapes.items()
            }
            row["memory_exponent"] = fit_exponent(row["peak_mb"])
        yield row
    one = RequestShape(_PROMPT, _ANSWER)
    sampling = {
        "steps": {n: (one, n) for n in STEPS},
        "batch": {n: (replace(one, batch=n), STEPS[0]) for n in BATCHES},
    }
    for name, sizes in sampling.items():
        seconds = {
            n: _measure_median_seconds(
                _make_sampling_run(shape, request, steps, seed=seed), repeats
            )
            for n, (request, steps) in sizes.items()
        }
        yield _make_growth_row(f"sampling, {name}", seconds)


def fit_exponent(costs: Mapping[int, float]) -> float:
    """Return the exponent of the best-fitting power law."""
    return float(np.polyfit(np.log(list(costs)), np.log(list(costs.values())), 1)[0])


def describe_row(row: dict[str, Any]) -> str:
    """Return one row in words."""
    points = ", ".join(f"{size}: {1000 * s:.0f} ms" for size, s in row["seconds"].items())
    said = f"{row['against']}: exponent {row['exponent']:.2f} ({points})"
    if "peak_mb" in row:
        points = ", ".join(f"{size}: {mb:.0f} MB" for size, mb in row["peak_mb"].items())
        said += f"; memory {row['memory_exponent']:.2f} ({points})"
    return said


def _make_growth_row(against: str, seconds: dict[int, float]) -> dict[str, Any]:
    return {"against": against, "seconds": seconds, "exponent": fit_exponent(seconds)}


def _measure_median_seconds(run: Callable[[], object], repeats: int) -> float:
    return time_alternating({"run": run}, repeats=repeats)["run"].median


def _make_gradient_step(shape: Shape, *, seed: int) -> Callable[[], None]:
    network = make_network(shape, seed=seed)
    samples = make_samples(shape, rng=torch.Generator().manual_seed(seed))

    def run() -> None:
        with torch.autocast(torch.device(shape.device).type, dtype=torch.bfloat16):
            loss = our_loss(network, samples, shape)
        network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        synchronize(shape.device)

    return run


def _make_sampling_run(
    shape: Shape, request: RequestShape, steps: int, *, seed: int
) -> Callable[[], object]:
    network = make_network(shape, seed=seed).eval()
    packed = request.make_prompts(shape, seed=seed)
    return lambda: sample_with_this_package(network, packed, steps, shape)
