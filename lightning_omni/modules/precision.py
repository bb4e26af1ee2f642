"""Mixed precision that follows the machine: one recipe for laptops and for GPUs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from lightning_omni.nn.precision import matmul_dtype


class BFloat16WhereFaster(MixedPrecision):
    """bfloat16 autocast on machines that gain by it, float32 on others; weights stay float32.

    Used as `trainer.plugins` in a recipe, in place of `trainer.precision`.
    """

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cuda" if torch.cuda.is_available() else "cpu")
        self.is_faster = matmul_dtype(self.device) is torch.bfloat16

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Autocast, or nothing."""
        if not self.is_faster:
            yield
            return
        with super().forward_context():
            yield

    def clip_gradients(self, *args: Any, **kwargs: Any) -> None:
        """Clip as in float32: without a gradient scaler, fused optimizers may be clipped too."""
        Precision.clip_gradients(self, *args, **kwargs)
