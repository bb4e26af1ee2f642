"""NELBO per token over samples of several groups, with its standard error."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

_SUMS = ("samples", "nats", "tokens", "nats_squared", "tokens_squared", "both")


class NelboPerToken(Metric):
    """Ratio of sums: the NELBO of all samples of a group over their tokens.

    The standard error is that of a ratio estimator over independent samples.

    Args:
        num_groups: Number of groups, such as modalities.

    Source: Cochran, Sampling Techniques, 1977, section 6.4.
    """

    samples: Tensor
    nats: Tensor
    tokens: Tensor
    nats_squared: Tensor
    tokens_squared: Tensor
    both: Tensor

    full_state_update = False

    def __init__(self, num_groups: int) -> None:
        super().__init__()
        for name in _SUMS:
            zeros = torch.zeros(num_groups, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, nats: Tensor, tokens: Tensor, group: Tensor) -> None:
        """Add samples.

        Args:
            nats: NELBO of each sample, Float[N].
            tokens: Number of tokens of each sample, Int[N].
            group: Group of each sample, Int[N].
        """
        b, n = nats.double(), tokens.double()
        values = (torch.ones_like(b), b, n, b * b, n * n, b * n)
        for name, value in zip(_SUMS, values, strict=True):
            getattr(self, name).index_add_(0, group, value)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return nats per token of each group and their standard errors, Float[G].

        Both are NaN for empty groups, the error for single samples too.
        """
        ratio = self.nats / self.tokens
        square = self.nats_squared - 2 * ratio * self.both + ratio**2 * self.tokens_squared
        spread = square.clamp_min(0) * self.samples / (self.samples - 1)
        error = spread.sqrt() / self.tokens
        return ratio, error.masked_fill(self.samples < 2, torch.nan)
