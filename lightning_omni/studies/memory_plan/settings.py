"""What a recipe's trainer settings mean for memory and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lightning_omni.errors import OmniError

_FORMATS = {
    "32": (torch.float32, torch.float32),
    "32-true": (torch.float32, torch.float32),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-true": (torch.bfloat16, torch.bfloat16),
    "16-true": (torch.float16, torch.float16),
}


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """The part of a recipe's `trainer` that a plan depends on.

    Attributes:
        devices: On all nodes; 1 where the recipe leaves it to the machine.
        accumulates: Batches per update.
        max_steps: Updates; -1 if the recipe does not say.
        weights: Format of weights.
        products: Format of matrix products.
        is_sharded: Devices share weights, gradients and states.
        has_ema: Weights are averaged.
    """

    devices: int
    accumulates: int
    max_steps: int
    weights: torch.dtype
    products: torch.dtype
    is_sharded: bool
    has_ema: bool


def read_settings(trainer: Mapping[str, Any]) -> TrainerSettings:
    """Read a recipe's `trainer`, given as plain values.

    Raises:
        OmniError: If its precision is none that a plan knows.
    """
    precision = str(trainer["precision"] or "32-true")
    if precision not in _FORMATS:
        raise OmniError(f"trainer.precision is '{precision}', wanted one of {', '.join(_FORMATS)}")
    weights, products = _FORMATS[precision]
    if any("BFloat16WhereFaster" in name for name in _classes(trainer["plugins"])):
        products = torch.bfloat16  # which GPUs gain by
    return TrainerSettings(
        devices=_number(trainer["devices"]) * int(trainer["num_nodes"]),
        accumulates=int(trainer["accumulate_grad_batches"]),
        max_steps=int(trainer["max_steps"]),
        weights=weights,
        products=products,
        is_sharded=any("fsdp" in name.lower() for name in _classes(trainer["strategy"])),
        has_ema=any("WeightAveraging" in name for name in _classes(trainer["callbacks"])),
    )


def _number(devices: Any) -> int:
    """How many devices a node has."""
    if isinstance(devices, list):
        return len(devices)
    return max(1, int(devices)) if str(devices).lstrip("-").isdigit() else 1


def _classes(given: Any) -> list[str]:
    """Names of the classes in a setting that takes one or several."""
    several = given if isinstance(given, list) else [given]
    return [str(one["class_path"] if isinstance(one, Mapping) else one) for one in several if one]
