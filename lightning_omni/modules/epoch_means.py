"""Means over the batches of an epoch that all processes have evaluated."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


class EpochMeans:
    """Sums and weights by name, of which `take` returns the means over all processes.

    Batches that no process but one has, or values that only some batches have, count as often as
    they occur. So the means do not depend on the number of processes.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[Tensor | float, float]]] = {}

    def add(self, name: str, mean: Tensor | float, weight: float) -> None:
        """Add the mean of a batch; one of no weight is left out."""
        if weight:
            value = mean.detach() if isinstance(mean, Tensor) else mean
            self._values.setdefault(name, []).append((value, weight))

    def take_means(self) -> dict[str, float]:
        """Return the mean of each name over all processes, and begin anew; all must call it."""
        own = {
            name: (sum(float(mean) * w for mean, w in values), sum(w for _, w in values))
            for name, values in self._values.items()
        }
        self._values = {}
        parts: list[Any] = [own]
        if dist.is_available() and dist.is_initialized():
            parts = [None] * dist.get_world_size()
            dist.all_gather_object(parts, own)
        sums: dict[str, list[float]] = {}
        for part in parts:
            for name, (total, weight) in part.items():
                so_far = sums.setdefault(name, [0.0, 0.0])
                so_far[0] += total
                so_far[1] += weight
        return {name: total / weight for name, (total, weight) in sums.items()}
