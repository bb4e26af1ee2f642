"""Peak memory of training steps, each measured in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from lightning_omni.errors import OmniError
from lightning_omni.studies.bench.workload import Shape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PROGRAM = (
    "import sys; from lightning_omni.studies.bench.peak_memory import print_peak_mb; "
    "print_peak_mb(*sys.argv[1:])"
)
_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")


def measure_peak_mb(side: str, shape: Shape, dtype: str, seed: int) -> float:
    """Return the peak memory of two training steps in MB, with weights and AdamW.

    On a CPU it is what the process holds at most, read as Linux reports it; on a GPU what torch
    allocates there.

    Args:
        side: `ours`, `peer` or `dllm`.
        shape: Sizes of network and batch.
        dtype: Format of matrix products.
        seed: Seed of weights and samples.

    Raises:
        OmniError: If that process fails.
    """
    command = [sys.executable, "-c", _PROGRAM, side, json.dumps(asdict(shape)), dtype, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OmniError(f"the {side} side ran out of memory or failed: {done.stderr[-300:]}")
    return float(done.stdout.splitlines()[-1])


def start_peak_meter() -> Callable[[], float]:
    """Return a function that returns by how many MB this process's memory has peaked since."""
    before = _read_status_mb("VmRSS")
    _RESET_PEAK.write_text("5")
    return lambda: read_peak_mb() - before


def read_peak_mb() -> float:
    """Return the most memory of this process so far in MB, or since `start_peak_meter`."""
    return _read_status_mb("VmHWM")


def print_peak_mb(
    side: str, shape: str, dtype: str, seed: str
) -> None:  # pragma: no cover - see above
    """Measure in this process and print the result."""
    from lightning_omni.studies.bench.training_steps import make_training_step

    memory_since = start_peak_meter()
    sizes = Shape(**json.loads(shape))
    step = make_training_step(side, sizes, dtype=DTYPES[dtype], seed=int(seed))
    for _ in range(2):  # the second step has gradients and moments from the start
        step()
    peak = memory_since()
    if (device := torch.device(sizes.device)).type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    sys.stdout.write(f"{peak}\n")


def _read_status_mb(name: str) -> float:  # pragma: no cover - as above
    """Return an entry of /proc/self/status in MB."""
    lines = _STATUS.read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return float(line.split()[1]) / 1024
