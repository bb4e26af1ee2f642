"""Time several ways of doing one thing, taking turns, so that a busy machine is unfair to none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds of repeated calls."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median

    def to_json(self) -> dict[str, float | list[float]]:
        """Plain form."""
        return {"median_s": self.median, "spread": self.spread, "seconds": list(self.seconds)}


def take_turns(
    runs: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 1
) -> dict[str, Timing]:
    """Call each in turn, `warm_up` rounds untimed and `repeats` rounds timed."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(warm_up + repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken = time.perf_counter() - start
            if round_number >= warm_up:
                seconds[name].append(taken)
    return {name: Timing(tuple(times)) for name, times in seconds.items()}


def ratio(slow: Timing, fast: Timing) -> tuple[float, float]:
    """Median of the rounds' ratios slow / fast, and half the distance between its quartiles."""
    ratios = [s / f for s, f in zip(slow.seconds, fast.seconds, strict=True)]
    if len(ratios) < 2:
        return ratios[0], 0.0
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), (high - low) / 2
