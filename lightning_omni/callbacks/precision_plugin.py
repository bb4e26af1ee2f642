"""Mixed precision that follows the machine: one recipe for laptops and for GPUs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins.precision import Precision

from lightning_omni.nn.cpu import matmul_dtype


class BFloat16WhereFaster(Precision):
    """bfloat16 autocast on machines that gain by it, float32 on others; weights stay float32.

    Used as `trainer.plugins` in a recipe, in place of `trainer.precision`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device_type = "cuda" if torch.cuda.is_available() else "cpu"
        self.is_faster = matmul_dtype(self.device_type) is torch.bfloat16

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Autocast, or nothing."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.is_faster):
            yield
