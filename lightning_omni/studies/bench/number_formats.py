"""Training steps in bfloat16 and in float32: is the format that the rule chooses the faster one?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lightning_omni.nn.cpu import matmul_dtype
from lightning_omni.studies.bench.timing import paired_ratio, time_alternating
from lightning_omni.studies.bench.training_steps import make_training_step
from lightning_omni.studies.bench.workload import Shape

NETWORKS = {
    "demo": Shape(192, 5, 2_700, 1024, 20, 128),
    "mini": Shape(192, 6, 4_000, 2048, 20, 256),
    "width 384": Shape(384, 6, 20_000, 2048, 40, 400),
}
"""Shapes as the recipes' of that name, and one of twice their width."""
_DTYPES = (torch.bfloat16, torch.float32)


def compare_formats(name: str, *, device: str, repeats: int, seed: int) -> dict[str, Any]:
    """Time training steps of one of the `NETWORKS` in both formats, in alternation."""
    shape = replace(NETWORKS[name], device=device)
    make_step = partial(make_training_step, "ours", shape, seed=seed)
    chosen = matmul_dtype(torch.device(device).type)
    (other,) = (dtype for dtype in _DTYPES if dtype is not chosen)
    timings = time_alternating(
        {"chosen": make_step(dtype=chosen), "other": make_step(dtype=other)}, repeats=repeats
    )
    ratio, spread = paired_ratio(timings["other"], timings["chosen"])
    return {
        "network": name,
        "chosen": str(chosen).removeprefix("torch."),
        "other": str(other).removeprefix("torch."),
        "step_s": {format_: timing.to_json() for format_, timing in timings.items()},
        "ratio": ratio,
        "ratio_spread": spread,
    }


def describe_row(row: dict[str, Any]) -> str:
    """Return one row in words."""
    return (
        f"{row['network']}: {row['chosen']} is chosen and takes "
        f"{row['step_s']['chosen']['median_s']:.3f} s a step, {row['other']} {row['ratio']:.2f} "
        f"times as long (+- {row['ratio_spread']:.2f})"
    )
