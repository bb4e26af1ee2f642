"""`lightning_omni bench`: the suites, their tables and their files."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_omni.arguments import check_within
from lightning_omni.bench.data import compare_reading
from lightning_omni.bench.machine import describe
from lightning_omni.bench.plot import draw_ratios
from lightning_omni.bench.sample import compare_sampling
from lightning_omni.bench.scale import measure_growth
from lightning_omni.bench.train import compare_training
from lightning_omni.bench.workload import Shape
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.files import make_folder

log = logging.getLogger(__name__)

Suite = Literal["train", "sample", "data", "scale"]
_SAMPLES = 2000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MEMORY = "import sys; from lightning_omni.bench.command import memory_of; memory_of(*sys.argv[1:])"


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
    repeats: int = 5,
    memory: bool = True,
    codes: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure ours and a `transformers` model in turns, in one process, on the same work.

    Both start from the same weights and must agree on the loss (train) or are compared token by
    token (sample) before anything is timed.

    Args:
        suite: `train`: whole steps on samples of mixed lengths. `sample`: filling an answer.
            `data`: reading shards. `scale`: how our step grows.
        out: Folder for `<suite>.json` and `<suite>.png`.
        dim: Width of the network; heads have 64 channels.
        num_layers: Blocks.
        vocab_sizes: Ids, one measurement each.
        tokens: Tokens of a training batch.
        shortest: Shortest sample.
        longest: Longest sample.
        dtype: Format of the products of both sides in training.
        prompt: Tokens given when sampling.
        answer: Tokens filled when sampling.
        steps: Denoising steps, one measurement each.
        repeats: Timed rounds after one to warm up.
        memory: Measure the peak memory of training, each side in a process of its own.
        codes: Folder of code shards, for the suite `data`.
        seed: Of weights and samples.
    """
    for name, value in {"repeats": repeats, "num_layers": num_layers, "prompt": prompt}.items():
        check_within(name, value, 1)
    for name, values in {"vocab_sizes": vocab_sizes, "steps": steps}.items():
        check_within(name, min(values, default=0), 1)
    check_within("dim", dim, 64)
    check_within("shortest", shortest, 2, longest)
    check_within("tokens", tokens, longest)
    check_within("answer", answer, max(steps))
    check_within("seed", seed, 0)
    make_folder(out)
    shapes = [Shape(dim, num_layers, v, tokens, shortest, longest) for v in vocab_sizes]
    results: dict[str, Any] = {
        "suite": suite,
        "machine": describe(dim=dim, device="cpu", repeats=repeats),
        **provenance(),
        "seed": seed,
        "shapes": [asdict(shape) for shape in shapes],
    }
    log.info("machine: %s", results["machine"])
    if suite == "train":
        results["rows"] = [_train(shape, dtype, repeats, seed, memory=memory) for shape in shapes]
    elif suite == "data":
        results["rows"] = _read(codes, repeats, seed)
    elif suite == "scale":
        results["rows"] = measure_growth(shapes[0], repeats=repeats, seed=seed)
    else:
        results["rows"] = [
            {"vocab_size": shape.vocab_size, **row}
            for shape in shapes
            for row in compare_sampling(
                shape, prompt=prompt, answer=answer, steps=steps, repeats=repeats, seed=seed
            )
        ]
    for row in results["rows"]:
        log.info("%s", _line(suite, row))
    (out / f"{suite}.json").write_text(json.dumps(results, indent=1) + "\n")
    if suite != "scale":
        draw_ratios(results, out / f"{suite}.png")
    log.info("wrote %s", out / f"{suite}.json")
    return results


def memory_of(side: str, shape: str, dtype: str, seed: str) -> None:
    """Print peak megabytes above the resting process; run by a process of its own."""
    from lightning_omni.bench.train import peak_memory_mb

    peak = peak_memory_mb(side, Shape(**json.loads(shape)), dtype=DTYPES[dtype], seed=int(seed))
    sys.stdout.write(f"{peak}\n")


def _train(shape: Shape, dtype: str, repeats: int, seed: int, *, memory: bool) -> dict[str, Any]:
    row = compare_training(shape, dtype=DTYPES[dtype], repeats=repeats, seed=seed)
    if memory:
        row["peak_mb"] = {side: _peak_mb(side, shape, dtype, seed) for side in ("ours", "peer")}
    return row


def _read(codes: Path | None, repeats: int, seed: int) -> list[dict[str, Any]]:
    if codes is None:
        raise OmniError("the suite data needs --codes, a folder such as data/mini/codes/<name>")
    tasks = sorted({path.name.split("-")[0] for path in codes.glob("*-train-*.tar")})
    if not tasks:
        raise OmniError(f"no training shards in '{codes}'; give a folder of code shards")
    return [
        compare_reading(codes, task, samples=_SAMPLES, repeats=repeats, seed=seed) for task in tasks
    ]


def _peak_mb(side: str, shape: Shape, dtype: str, seed: int) -> float:
    """Ask a process of its own, whose memory nothing else has touched."""
    command = [sys.executable, "-c", _MEMORY, side, json.dumps(asdict(shape)), dtype, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OmniError(f"the {side} side ran out of memory or failed: {done.stderr[-300:]}")
    return float(done.stdout.splitlines()[-1])


def _line(suite: Suite, row: dict[str, Any]) -> str:
    if suite == "scale":
        points = ", ".join(f"{size}: {1000 * s:.0f} ms" for size, s in row["seconds"].items())
        return f"against {row['against']}: exponent {row['exponent']:.2f} ({points})"
    if suite == "data":
        rate = row["samples_per_s"]
        return (
            f"{row['task']}: ours {rate['ours']:.0f} samples/s, plain WebDataset "
            f"{rate['plain']:.0f}, {row['ratio']:.2f} times (+- {row['ratio_spread']:.2f})"
        )
    if suite == "sample":
        times = {name: timing["median_s"] for name, timing in row["fill_s"].items()}
        return (
            f"{row['vocab_size']} ids, {row['steps']} steps: ours {times['ours']:.3f} s, peer "
            f"{times['peer']:.3f} s, {row['ratio']:.2f} times (+- {row['ratio_spread']:.2f}); "
            f"{row['equal_tokens']:.1%} of the tokens are equal"
        )
    rate = row["useful_tokens_per_s"]
    memory = row.get("peak_mb")
    held = f"; peak memory {memory['ours']:.0f} and {memory['peer']:.0f} MB" if memory else ""
    return (
        f"{row['vocab_size']} ids, {row['dtype']}: ours {rate['ours']:.0f} useful tokens/s, peer "
        f"{rate['peer']:.0f}, {row['ratio']:.2f} times (+- {row['ratio_spread']:.2f}); "
        f"{row['share_of_gemm']:.0%} of the machine's products{held}"
    )
