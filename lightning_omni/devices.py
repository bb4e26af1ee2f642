"""The device that a verb computes on, `auto`, `cpu`, `cuda` or `cuda:N`, and its memory."""

from __future__ import annotations

import logging
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

from lightning_omni.errors import OmniError

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

AUTO = "auto"
_CPU_FACTS = Path("/proc/cpuinfo")
_DRIVER_FACTS = Path("/proc/driver/nvidia/version")


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device of a name; `auto` is the first GPU if torch sees one, else the CPU.

    Raises:
        OmniError: If the name is no device, or the machine does not have it.
    """
    if name == AUTO:
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise OmniError(f"device is '{name}', wanted auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OmniError(
            f"device is '{name}' but torch sees {torch.cuda.device_count()} GPUs; give --device "
            "cpu or auto, or install a torch build for the GPUs of this machine"
        )
    return device


def training_accelerator(name: str) -> str:
    """Return the trainer's accelerator; `auto` is the CPU where it would be Apple's GPU.

    Noise is drawn in float64, so that it is the same on every device, and that GPU has none.

    Raises:
        OmniError: If Apple's GPU is asked for.
    """
    has_apples = torch.backends.mps.is_available() and not torch.cuda.is_available()
    if name == AUTO and has_apples:
        log.info("training on the CPU: Apple's GPU has no float64, in which noise is drawn")
        return "cpu"
    if name == "mps" or (name == "gpu" and has_apples):
        raise OmniError(
            f"accelerator is '{name}', Apple's GPU, which has no float64, in which noise is drawn; "
            "give --trainer.accelerator cpu"
        )
    return name


def device_facts(device: torch.device) -> dict[str, Any]:
    """Return what a record says of a device: its name and, of a GPU, driver and peak memory.

    `device` is `cpu` or the GPU's name, `processor` the CPU's model, `threads` those of torch,
    `driver` and `cuda` versions and `peak_memory_gb` the most that torch has allocated so far.
    """
    facts: dict[str, Any] = {
        "device": "cpu",
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "driver": driver_version(),
            "cuda": torch.version.cuda,
            "peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9,
        }
    return facts


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver; None where the system does not tell it."""
    if not _DRIVER_FACTS.is_file():
        return None
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _DRIVER_FACTS.read_text().partition("\n")[0])
    return None if found is None else found.group()


def processor_name() -> str:
    """Return the model of the CPU, as the system names it."""
    if _CPU_FACTS.is_file():
        for line in _CPU_FACTS.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory_gb(device: torch.device) -> float | None:
    """Return the most memory used so far, in 10^9 bytes.

    On a GPU that of its tensors, otherwise the resident memory of this process; None on
    Windows, which does not keep it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
