"""Options of the verb `plan`, and the trainer settings a plan depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_omni.argument_checks import check_within
from lightning_omni.errors import OmniError

USABLE = 0.9
"""Share of a GPU's memory that a plan fills; its context and fragmentation take the rest."""
GPUS = {"A100": (80.0, 312.0), "H100": (80.0, 989.4), "H200": (141.0, 989.4)}
"""Memory in 10^9 bytes and dense bfloat16 peak in 10^12 FLOP/s, by NVIDIA's datasheets (SXM)."""
_FORMATS = {
    "32": (torch.float32, torch.float32),
    "32-true": (torch.float32, torch.float32),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-true": (torch.bfloat16, torch.bfloat16),
    "16-true": (torch.float16, torch.float16),
}


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """Options of the verb `plan` besides those of a recipe.

    Args:
        devices: GPUs on all nodes; None for the recipe's number.
        gpu: Kind of GPU, for its memory and its peak.
        gpu_memory_gb: Memory of one GPU in 10^9 bytes; None for that of its kind.
        gpu_tflops: Peak of one GPU in the recipe's format, in 10^12 FLOP/s; None for the dense
            bfloat16 peak of its kind.
        utilisation: Share of the peak that training reaches; None assumes 0.35 for the joint model
            and 0.1 for tokenizers.
        seconds_per_step: Time of a step of this layout, as measured: `perf/compute_s` and
            `perf/data_wait_s` of a short run together. None computes it from the peak.
        segment_length: Tokens per sample; None for samples as long as a row, the costliest case.
        masked_share: Share of tokens with a loss.
        out: JSON file to write; None writes none.
    """

    devices: int | None = None
    gpu: Literal["A100", "H100", "H200"] = "H100"
    gpu_memory_gb: float | None = None
    gpu_tflops: float | None = None
    utilisation: float | None = None
    seconds_per_step: float | None = None
    segment_length: int | None = None
    masked_share: float = 0.25
    out: Path | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.devices is not None:
            check_within("devices", self.devices, 1)
        check_within("gpu_memory_gb", self.memory_gb, 1)
        check_within("gpu_tflops", self.gpu_tflops or GPUS[self.gpu][1], 1)
        if self.utilisation is not None:
            check_within("utilisation", self.utilisation, 0.01, 1)
        if self.seconds_per_step is not None:
            check_within("seconds_per_step", self.seconds_per_step, 1e-6)

    @property
    def memory_gb(self) -> float:
        """Memory of one GPU in 10^9 bytes."""
        return GPUS[self.gpu][0] if self.gpu_memory_gb is None else self.gpu_memory_gb

    @property
    def peak_flop_per_s(self) -> float:
        """Peak of one GPU in FLOP/s."""
        return (self.gpu_tflops or GPUS[self.gpu][1]) * 1e12

    @property
    def peak_source(self) -> str:
        """The peak, and where it is from."""
        peak = f"{self.peak_flop_per_s / 1e12:g} TFLOP/s"
        if self.gpu_tflops:
            return f"{peak}, as given by --gpu_tflops"
        return f"{peak}, NVIDIA's datasheet for dense bfloat16 on an {self.gpu}"


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """The part of a recipe's `trainer` that a plan depends on.

    Attributes:
        devices: Devices on all nodes; 1 if the recipe leaves it to the machine.
        accumulates: Batches per update.
        max_steps: Updates; -1 if not given.
        weights: Format of weights.
        products: Format of matrix products.
        is_sharded: FSDP.
        has_ema: Weights are averaged.
    """

    devices: int
    accumulates: int
    max_steps: int
    weights: torch.dtype
    products: torch.dtype
    is_sharded: bool
    has_ema: bool


def read_trainer_settings(trainer: Mapping[str, Any]) -> TrainerSettings:
    """Read a recipe's `trainer`, given as plain values.

    Raises:
        OmniError: If a plan does not know the precision.
    """
    precision = str(trainer["precision"] or "32-true")
    if precision not in _FORMATS:
        raise OmniError(f"trainer.precision is '{precision}', wanted one of {', '.join(_FORMATS)}")
    weights, products = _FORMATS[precision]
    if any("BFloat16WhereFaster" in name for name in _class_names(trainer["plugins"])):
        products = torch.bfloat16  # faster on GPUs
    devices = trainer["devices"]
    if isinstance(devices, list):
        per_node = len(devices)
    else:
        per_node = max(1, int(devices)) if str(devices).lstrip("-").isdigit() else 1
    return TrainerSettings(
        devices=per_node * int(trainer["num_nodes"]),
        accumulates=int(trainer["accumulate_grad_batches"]),
        max_steps=int(trainer["max_steps"]),
        weights=weights,
        products=products,
        is_sharded=any(
            "fsdp" in n.lower() or "Sharded" in n for n in _class_names(trainer["strategy"])
        ),
        has_ema=any(
            name.endswith(("EMA", "WeightAveraging")) for name in _class_names(trainer["callbacks"])
        ),
    )


def _class_names(given: Any) -> list[str]:
    """Return the class names in a setting that takes one class or several."""
    several = given if isinstance(given, list) else [given]
    return [str(one["class_path"] if isinstance(one, Mapping) else one) for one in several if one]
