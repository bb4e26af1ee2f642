"""The device of each of several processes on a machine."""

from __future__ import annotations

import torch

from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.jobs.executors import local


def process_device(name: str, index: int) -> torch.device:
    """Return the device of a machine's process, and let it compute on one thread on a CPU.

    Processes take the GPUs in turn unless one is named.

    Args:
        name: auto, cpu, cuda or cuda:N.
        index: Number of the process on its machine.
    """
    device = resolve_device(name)
    if device.type == "cuda" and name in (AUTO, "cuda"):
        device = torch.device("cuda", index % torch.cuda.device_count())
    if device.type == "cpu":
        torch.set_num_threads(1)
    return device


def default_num_processes(name: str) -> int:
    """Return one process per GPU, or per CPU core that this process may use, up to 8."""
    device = resolve_device(name)
    if device.type == "cuda":
        return torch.cuda.device_count() if name in (AUTO, "cuda") else 1
    return local.default_num_processes()
