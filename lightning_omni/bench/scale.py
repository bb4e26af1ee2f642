"""How the cost of our training step grows, with fitted exponents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lightning_omni.bench.timing import take_turns
from lightning_omni.bench.train import our_loss
from lightning_omni.bench.workload import Shape, make_network, make_samples

TOKENS = (512, 1024, 2048, 4096)
SEGMENT_LENGTHS = (128, 512, 2048)
VOCAB_SIZES = (16_384, 65_536, 262_144)
_SEGMENT_TOKENS = 2048


def measure_growth(shape: Shape, *, repeats: int, seed: int) -> list[dict[str, Any]]:
    """Time forward and backward against tokens, segment length and vocabulary.

    The exponent is the slope of log time against log size: 1 is linear, 0 does not grow.
    """
    sweeps: dict[str, dict[int, Shape]] = {
        "tokens": {n: replace(shape, tokens=n) for n in TOKENS},
        "segment_length": {
            n: replace(shape, tokens=_SEGMENT_TOKENS, shortest=n, longest=n)
            for n in SEGMENT_LENGTHS
        },
        "vocab_size": {n: replace(shape, vocab_size=n) for n in VOCAB_SIZES},
    }
    found = []
    for name, shapes in sweeps.items():
        seconds = {
            size: take_turns({"step": _step(s, seed=seed)}, repeats=repeats)["step"].median
            for size, s in shapes.items()
        }
        slope = np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0]
        found.append({"against": name, "seconds": seconds, "exponent": float(slope)})
    return found


def _step(shape: Shape, *, seed: int) -> Callable[[], None]:
    network = make_network(shape, seed=seed)
    samples = make_samples(shape, rng=torch.Generator().manual_seed(seed))

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = our_loss(network, samples, shape)
        network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]

    return run
