"""Codebook use: the share of codes used, and their perplexity."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric


class CodebookUse(Metric):
    """Share of the codes that occur, and perplexity of their distribution.

    Args:
        num_codes: Size of the codebook.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_codes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(num_codes), dist_reduce_fx="sum")

    def update(self, codes: Int[Tensor, "*shape"]) -> None:
        """Add codes."""
        flat = codes.flatten()
        counts = torch.zeros_like(self.counts)  # not bincount, for which the host waits for a GPU
        self.counts += counts.scatter_add_(0, flat, counts.new_ones(()).expand(len(flat)))

    def compute(self) -> dict[str, Tensor]:
        """Return `usage` in [0, 1], `perplexity` in [1, num_codes] and `dead_codes`."""
        used = self.counts > 0
        p = self.counts / self.counts.sum().clamp_min(1)
        entropy = -(p[used] * p[used].log()).sum()
        return {
            "usage": used.float().mean(),
            "perplexity": entropy.exp(),
            "dead_codes": (~used).sum().float(),
        }
