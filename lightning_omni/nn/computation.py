"""What networks compute with, for records: number format and attention kernel."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_omni.nn.attention import GroupedQueryAttention
from lightning_omni.nn.codec.magvit import SpatialAttention
from lightning_omni.nn.segments import attention_kernel, longest_segment_lengths


def computation_facts(
    network: nn.Module,
    dtypes: Iterable[torch.dtype] | None = None,
    kernels: Collection[str] = (),
) -> dict[str, str]:
    """Return `precision`, the format of matrix products, and `attention`, the kernel that attends.

    Several are joined by commas. A network without attention has no kernel, and one that has not
    run has neither.

    Args:
        network: Network, on the device that computes.
        dtypes: Formats it ran in; None for that of its weights, without autocast.
        kernels: What an `AttentionWatch` noted; the formats decide where it noted nothing.
    """
    weight = next(network.parameters())
    used = {weight.dtype} if dtypes is None else set(dtypes)
    modules = list(network.modules())
    attending = set(kernels)
    if any(isinstance(module, GroupedQueryAttention) for module in modules) and not attending:
        attending |= {attention_kernel(weight.device.type, dtype) for dtype in used}
    if any(isinstance(module, SpatialAttention) for module in modules) and used:
        attending.add("sdpa")
    facts = {
        "precision": {str(dtype).removeprefix("torch.") for dtype in used},
        "attention": attending,
    }
    return {name: ", ".join(sorted(found)) for name, found in facts.items() if found}


class AttentionWatch:
    """Notes which kernels a network attends with on a CPU, where the lengths of segments decide.

    On other devices, and in compiled code, it notes nothing: the number format decides alone.

    Args:
        network: Network; its first layer of attention is watched.

    Attributes:
        kernels: Names of the kernels so far.
    """

    def __init__(self, network: nn.Module) -> None:
        self.kernels: set[str] = set()
        layers = [m for m in network.modules() if isinstance(m, GroupedQueryAttention)]
        self._handles = [layer.register_forward_hook(self._note) for layer in layers[:1]]

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _note(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if torch.compiler.is_compiling() or output.device.type != "cpu":
            return
        layout, cache = inputs[3], (*inputs, None)[4]
        lengths = longest_segment_lengths(layout, layout if cache is None else cache.layout)
        self.kernels |= {attention_kernel("cpu", output.dtype, longest) for longest in lengths}
