"""The work of one device between two updates, on which its memory depends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from lightning_omni.argument_checks import check_within
from lightning_omni.nn.recomputation import Recomputation

OptimizerKind = Literal["adamw", "fused_adamw", "muon"]


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """Work of one device between two updates, and how its numbers are stored.

    Attributes:
        tokens: Tokens per batch, B * L.
        segment_length: Tokens per sample.
        masked_share: Share of tokens with a loss.
        weights: Format of weights, gradients and optimizer states.
        products: Format of matrix products.
        device: Device type; CPUs keep one state more for each norm.
        recomputation: What the backward pass recomputes: nothing, all but products, or blocks.
        accumulates: Gradients of earlier batches are in memory.
        keeps_gradients: Gradients of the last update are in memory until the backward pass, as
            Lightning deletes them then.
        optimizer: Optimizer.
        has_ema: Keep averaged weights.
        devices: Number of devices.
        is_sharded: Share weights, gradients and states among devices (FSDP).
    """

    tokens: int
    segment_length: int
    masked_share: float
    weights: torch.dtype = torch.float32
    products: torch.dtype = torch.float32
    device: Literal["cuda", "cpu"] = "cuda"
    recomputation: Recomputation = "none"
    accumulates: bool = False
    keeps_gradients: bool = True
    optimizer: OptimizerKind = "fused_adamw"
    has_ema: bool = False
    devices: int = 1
    is_sharded: bool = False

    def __post_init__(self) -> None:
        """Check the numbers that users set."""
        check_within("segment_length", self.segment_length, 1, self.tokens)
        check_within("masked_share", self.masked_share, 0, 1)

    @property
    def segment_lengths(self) -> list[int]:
        """Tokens of each segment."""
        whole, rest = divmod(self.tokens, self.segment_length)
        return [self.segment_length] * whole + [rest] * (rest > 0)

    @property
    def num_masked(self) -> int:
        """Number of positions with a loss."""
        return round(self.tokens * self.masked_share)

    @property
    def num_shards(self) -> int:
        """Number of devices that share one copy of the model."""
        return self.devices if self.is_sharded else 1

    @property
    def stream_dtype(self) -> torch.dtype:
        """Format of the residual stream and of the weights a pass reads."""
        return self.products if self.is_sharded else self.weights
