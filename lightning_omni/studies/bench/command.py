"""The `bench` verb: run a suite, log its rows, write JSON and a figure."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from lightning_omni.argument_checks import check_within
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.files import make_folder
from lightning_omni.nn.segments import attention_kernel
from lightning_omni.studies.bench.machine import describe_machine
from lightning_omni.studies.bench.peak_memory import DTYPES
from lightning_omni.studies.bench.plot import draw_growth, draw_ratios
from lightning_omni.studies.bench.sampling import RequestShape
from lightning_omni.studies.bench.suites import LINES, SUITES, Options, Suite
from lightning_omni.studies.bench.workload import Shape
from lightning_omni.whole_files import write_text

log = logging.getLogger(__name__)


def bench(
    suite: Suite,
    out: Path = Path("runs/bench"),
    dim: int = 384,
    num_layers: int = 6,
    vocab_sizes: list[int] = [20_000, 176_264],  # noqa: B006 - jsonargparse reads it
    tokens: int = 2048,
    shortest: int = 40,
    longest: int = 400,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    prompt: int = 64,
    answer: int = 256,
    steps: list[int] = [256, 64, 16],  # noqa: B006
    batches: list[int] = [1, 4, 16],  # noqa: B006
    cache_interval: int = 4,
    repeats: int = 5,
    memory: bool = True,
    compiles: bool = False,
    codes: Path | None = None,
    seed: int = 0,
    device: str = AUTO,
) -> dict[str, Any]:
    """Time this package and a `transformers` model in alternation, on the same weights and data.

    Before timing, both must agree on the loss (train), or their tokens are compared (sample).

    Args:
        suite: `train`: training steps on samples of mixed lengths. `sample`: generation of an
            answer. `cache`: generation with cached prompt states. `data`: reading shards. `scale`:
            growth of cost with size. `formats`: training steps in bfloat16 and in float32.
        out: Folder for `<suite>.json` and `<suite>.png`.
        dim: Width of the network; heads have 64 channels.
        num_layers: Number of blocks.
        vocab_sizes: Vocabulary sizes, one measurement each.
        tokens: Tokens per training batch.
        shortest: Tokens of the shortest sample.
        longest: Tokens of the longest sample.
        dtype: Format of matrix products in training.
        prompt: Prompt tokens when sampling.
        answer: Answer tokens when sampling.
        steps: Denoising steps, one measurement each.
        batches: Batch sizes of the suite `cache`.
        cache_interval: Steps between two passes over the prompt, in the suite `cache`.
        repeats: Timed rounds after one warm-up round.
        memory: Measure the peak memory of training, each side in its own process.
        compiles: Compile pointwise operations; needs a C++ compiler on CPUs.
        codes: Folder of code shards, for the suite `data`.
        seed: Seed of weights and samples.
        device: Device: auto, cpu, cuda or cuda:N.
    """
    for name, value in {"repeats": repeats, "num_layers": num_layers, "prompt": prompt}.items():
        check_within(name, value, 1)
    for name, values in {"vocab_sizes": vocab_sizes, "steps": steps, "batches": batches}.items():
        check_within(name, min(values, default=0), 1)
    check_within("dim", dim, 64)
    check_within("shortest", shortest, 2, longest)
    check_within("tokens", tokens, longest)
    check_within("answer", answer, max(steps))
    check_within("seed", seed, 0)
    used = resolve_device(device)
    make_folder(out)
    shape = Shape(
        dim, num_layers, 0, tokens, shortest, longest, compiles=compiles, device=str(used)
    )
    shapes = [replace(shape, vocab_size=size) for size in vocab_sizes]
    results: dict[str, Any] = {
        "suite": suite,
        "machine": describe_machine(dim=dim, device=str(used), repeats=repeats),
        **provenance(used),
        "attention": {name: attention_kernel(used.type, dtype) for name, dtype in DTYPES.items()},
        "seed": seed,
        "shapes": [asdict(shape) for shape in shapes],
    }
    log.info("machine: %s", results["machine"])
    options = Options(
        shapes,
        dtype,
        RequestShape(prompt, answer),
        steps,
        batches,
        cache_interval,
        repeats,
        memory,
        codes,
        seed,
    )
    results["rows"] = []
    for row in SUITES[suite](options):
        log.info("%s", LINES[suite](row))
        results["rows"].append(row)
    write_text(out / f"{suite}.json", json.dumps(results, indent=1) + "\n")
    draw = draw_growth if suite == "scale" else draw_ratios
    draw(results, out / f"{suite}.png")
    log.info("wrote %s", out / f"{suite}.json")
    return results
