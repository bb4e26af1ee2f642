"""Build networks that have shapes and no weights, to be filled or only to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class WithoutWeights(TorchFunctionMode):
    """Inside, parameters are on the meta device and get no initial values.

    What a constructor computes, such as rotary frequencies, is computed. With the meta device for
    everything torch would load its compiler for that, 150 MB.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make memory without content, and leave it so."""
        given = kwargs or {}
        if func is torch.empty:
            return func(*args, **{**given, "device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else given["tensor"]
        return func(*args, **given)
