"""Mixed precision chosen by the machine: one recipe for laptops and GPUs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins.precision import Precision

from lightning_omni.nn.cpu import matmul_dtype


class BFloat16WhereFaster(Precision):
    """bfloat16 autocast on machines where it is faster, else float32; weights stay float32.

    A recipe names it in `trainer.plugins` instead of setting `trainer.precision`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device_type = "cuda" if torch.cuda.is_available() else "cpu"
        self.is_faster = matmul_dtype(self.device_type) is torch.bfloat16

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Run the forward pass under autocast if it is faster."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.is_faster):
            yield
