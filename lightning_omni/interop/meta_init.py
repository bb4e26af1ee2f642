"""Build networks on the meta device: shapes without weights, to be filled or compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class MetaInit(TorchFunctionMode):
    """Context in which parameters are created on the meta device and are not initialised.

    Buffers that a constructor computes, such as rotary frequencies, are computed on the CPU. With
    `torch.device("meta")` instead, torch would import its compiler for them (150 MB).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Allocate on the meta device and skip initialisation."""
        given = kwargs or {}
        if func is torch.empty:
            return func(*args, **{**given, "device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)
