"""Peak rates of the machine: matrix products and memory copies."""

from __future__ import annotations

from typing import Any

import torch

from lightning_omni.devices import device_facts
from lightning_omni.studies.bench.timing import synchronize, time_alternating

_COPIED_BYTES = 256 * 2**20


def measure_gemm_rate(
    dtype: torch.dtype, *, rows: int, dim: int, columns: int, device: str, repeats: int
) -> float:
    """Return the GFLOP/s of (rows, dim) @ (dim, columns)."""
    a = torch.randn(rows, dim, device=device).to(dtype)
    b = torch.randn(dim, columns, device=device).to(dtype)
    calls = max(1, int(2e10 / (2 * rows * dim * columns)))

    def run() -> None:
        for _ in range(calls):
            a @ b
        synchronize(device)

    timing = time_alternating({"gemm": run}, repeats=repeats)["gemm"]
    return calls * 2 * rows * dim * columns / timing.median / 1e9


def measure_copy_rate(*, device: str, repeats: int) -> float:
    """Return the GB/s read and written by a large copy."""
    source = torch.ones(_COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        target.copy_(source)
        synchronize(device)

    timing = time_alternating({"copy": run}, repeats=repeats)["copy"]
    return 2 * _COPIED_BYTES / timing.median / 1e9


def describe_machine(*, dim: int, device: str, repeats: int) -> dict[str, Any]:
    """Return the processor, threads, versions, and both rates for networks of width `dim`."""
    shape = {"rows": 2048, "dim": dim, "columns": 4 * dim}
    rates = {
        str(dtype).removeprefix("torch."): measure_gemm_rate(
            dtype, **shape, device=device, repeats=repeats
        )
        for dtype in (torch.float32, torch.bfloat16)
    }
    return {
        **device_facts(torch.device(device)),
        "torch": torch.__version__,
        "gemm_gflops_per_s": rates,
        "copy_gb_per_s": measure_copy_rate(device=device, repeats=repeats),
    }
