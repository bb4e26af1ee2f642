"""Which number format multiplies matrices fastest on this machine."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CPU_FACTS = Path("/proc/cpuinfo")


@functools.cache
def matmul_dtype(device_type: str) -> torch.dtype:
    """Format of matrix products in training: bfloat16 where the hardware gains by it, else float32.

    A fixed rule on what the hardware says of itself, never a measurement, so that a run and its
    repetition on one machine compute the same bytes. Processors with AMX gain; of those with
    AVX512-BF16 alone, AMD's run it 2 to 4 times as fast as float32, Intel's half as fast.
    """
    dtype = torch.float32
    if device_type == "cuda":  # pragma: no cover
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    elif device_type == "cpu" and CPU_FACTS.is_file():
        dtype = dtype_for(CPU_FACTS.read_text())
    log.info("matrix products on %s: %s", device_type, str(dtype).removeprefix("torch."))
    return dtype


def as_factor(x: Tensor) -> Tensor:
    """Round to autocast's format, once for all the matrix products that follow."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def dtype_for(cpuinfo: str) -> torch.dtype:
    """Apply the rule to the contents of Linux's `/proc/cpuinfo`."""
    words = set(cpuinfo.split())
    gains = "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words
    return torch.bfloat16 if gains else torch.float32
