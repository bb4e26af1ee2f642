"""Time several functions in alternation, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds of repeated calls."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range, relative to the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median

    def to_json(self) -> dict[str, float | list[float]]:
        """Return the timing as plain values."""
        return {"median_s": self.median, "spread": self.spread, "seconds": list(self.seconds)}


def time_alternating(
    runs: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 1
) -> dict[str, Timing]:
    """Call all functions once per round: `warm_up` rounds untimed, then `repeats` rounds timed."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(warm_up + repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken = time.perf_counter() - start
            if round_number >= warm_up:
                seconds[name].append(taken)
    return {name: Timing(tuple(times)) for name, times in seconds.items()}


def paired_ratio(slow: Timing, fast: Timing) -> tuple[float, float]:
    """Return the median of slow / fast over rounds, and half its interquartile range."""
    ratios = [s / f for s, f in zip(slow.seconds, fast.seconds, strict=True)]
    if len(ratios) < 2:
        return ratios[0], 0.0
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), (high - low) / 2


def synchronize(device: str) -> None:
    """Wait for what a GPU still computes, so that wall times are those of the work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
