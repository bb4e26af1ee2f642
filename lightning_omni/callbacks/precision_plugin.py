"""Mixed precision chosen by the machine: one recipe for laptops and GPUs."""

from __future__ import annotations

import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import nn

from lightning_omni.nn.cpu import matmul_dtype

PRECISION_RULE = "lightning_omni.callbacks.precision_plugin.BFloat16WhereFaster"
AUTO = "auto-bf16"
"""Word of recipes for the rule, in `trainer.precision`."""


class BFloat16WhereFaster(Precision):
    """bfloat16 autocast on machines where it is faster, else float32; weights stay float32.

    Recipes select it by `trainer.precision: auto-bf16`. The machine's part is the device that
    the trainer moves the module to.

    Args:
        always: autocast where it is slower, too. Unlike Lightning's plugin this one clips gradients
            of fused optimizers.
    """

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.always = always
        self.device_type: str | None = None
        self.is_faster = False
        self._module: weakref.ref[nn.Module] | None = None

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Forget the device, as another trainer may use another one."""
        self.device_type = None
        self._module = weakref.ref(module)
        return module

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        """Run the forward pass under autocast if it is faster."""
        if self.device_type is None:
            self.device_type = self._device_of_module()
            self.is_faster = self.is_used_on(self.device_type)
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.is_faster):
            yield

    def is_used_on(self, device_type: str) -> bool:
        """Whether products are in bfloat16 on a type of device."""
        return self.always or matmul_dtype(device_type) is torch.bfloat16

    def _device_of_module(self) -> str:
        """Return the type of the device the trainer moved the module to; the CPU without one."""
        module = self._module() if self._module is not None else None
        parameter = None if module is None else next(module.parameters(), None)
        return "cpu" if parameter is None else parameter.device.type


def take_rule_from_recipe(trainer: Any) -> bool | None:
    """Take the rule out of a recipe's section; return None if it says nothing on precision."""
    if not isinstance(trainer, dict):
        return None
    precision, plugins = trainer.get("precision"), trainer.get("plugins")
    listed = plugins if isinstance(plugins, list) else [plugins]
    others = [plugin for plugin in listed if not _is_precision_rule(plugin)]
    has_rule = len(others) < len(listed)
    if has_rule:
        trainer["plugins"] = others or None
    if precision is None and any(map(_is_always_used, listed)):
        precision = trainer["precision"] = "bf16-mixed"  # as the settings of such a run are written
    if precision == AUTO:
        del trainer["precision"]
    if has_rule or precision == AUTO:
        return precision in (None, AUTO)
    return None if precision is None else False


def _is_precision_rule(plugin: Any) -> bool:
    path = plugin.get("class_path") if isinstance(plugin, dict) else plugin
    return isinstance(path, str) and path.endswith(PRECISION_RULE.rpartition(".")[2])


def _is_always_used(plugin: Any) -> bool:
    arguments = plugin.get("init_args") if isinstance(plugin, dict) else None
    return _is_precision_rule(plugin) and bool((arguments or {}).get("always"))
