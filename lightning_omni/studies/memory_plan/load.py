"""What one device computes between two updates of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from lightning_omni.errors import check_within


@dataclass(frozen=True, slots=True)
class Load:
    """A pass over one batch on one device, and how numbers are stored.

    Attributes:
        tokens: Tokens of the batch, B * L.
        segment_length: Tokens of a sample.
        masked_share: Share of the tokens that have a loss.
        weights: Format of weights, gradients and optimizer states.
        products: Format of matrix products.
        device: Kind of device, which decides what attention keeps.
        recomputes: Only inputs of blocks are kept for the backward pass.
        accumulates: Gradients of earlier batches are in memory already.
    """

    tokens: int
    segment_length: int
    masked_share: float
    weights: torch.dtype = torch.float32
    products: torch.dtype = torch.float32
    device: Literal["cuda", "cpu"] = "cuda"
    recomputes: bool = False
    accumulates: bool = False

    def __post_init__(self) -> None:
        """Check the numbers that a user may have given."""
        check_within("segment_length", self.segment_length, 1, self.tokens)
        check_within("masked_share", self.masked_share, 0, 1)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        whole, rest = divmod(self.tokens, self.segment_length)
        return [self.segment_length] * whole + [rest] * (rest > 0)

    @property
    def masked(self) -> int:
        """Positions that have a loss."""
        return round(self.tokens * self.masked_share)
