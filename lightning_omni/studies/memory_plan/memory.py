"""Memory of one device: what stays, what comes and goes, and the most of it at one time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch

from lightning_omni.nn.transformer import Transformer
from lightning_omni.optim.schedule import decay_groups
from lightning_omni.studies.memory_plan.activations import (
    backward_bytes,
    block_inputs,
    block_insides,
    loss_bytes,
)
from lightning_omni.studies.memory_plan.load import Load

OptimizerKind = Literal["adamw", "fused_adamw", "muon"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: Of the parameters this device owns.
        gradients: Of the same.
        optimizer: States of the optimizer.
        ema: Averaged weights.
        exchange: What other devices need or lend: gathered weights and gradients that are not yet
            shared out, or buckets of gradients.
        activations: Kept for the backward pass.
        loss: Most that the loss holds at one time.
        peak: Most of all that is there at one time.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    exchange: int
    activations: int
    loss: int
    peak: int

    def in_gb(self) -> dict[str, float]:
        """The same in 10^9 bytes."""
        return {name: value / 1e9 for name, value in asdict(self).items()}


def optimizer_bytes(network: Transformer, kind: OptimizerKind, load: Load) -> int:
    """States between steps: two numbers per parameter, for matrices under Muon one."""
    matrices = sum(p.numel() for p in _matrices(network)) if kind == "muon" else 0
    return (2 * _count(network) - matrices) * load.weights.itemsize


def update_bytes(network: Transformer, kind: OptimizerKind, load: Load) -> int:
    """Most that an update holds beside weights, gradients and states."""
    if kind == "fused_adamw":
        return 0
    if kind == "adamw":
        largest = max(p.numel() for p in network.parameters())
        return (_count(network) if load.device == "cuda" else 2 * largest) * load.weights.itemsize
    by_shape: dict[torch.Size, int] = defaultdict(int)
    for p in _matrices(network):
        by_shape[p.shape] += 1
    held = [
        max(
            2 * count * shape.numel() * load.weights.itemsize,
            count * (5 * shape.numel() + 3 * min(shape) ** 2) * load.products.itemsize,
        )
        for shape, count in by_shape.items()
    ]
    return max(held, default=0)


def replicated(
    network: Transformer, load: Load, kind: OptimizerKind, *, has_ema: bool, devices: int
) -> Memory:
    """Memory of a device that holds the whole model; several share gradients in buckets."""
    weights = _count(network) * load.weights.itemsize
    head = network.embedding.head.weight.numel() * load.weights.itemsize
    return _memory(
        network,
        load,
        kind,
        computed=load,
        shards=1,
        has_ema=has_ema,
        exchange=weights if devices > 1 else 0,
        early_gradients=0 if load.accumulates else head,
    )


def sharded(
    network: Transformer, load: Load, kind: OptimizerKind, *, has_ema: bool, devices: int
) -> Memory:
    """Memory of one of several devices that share weights, gradients and states evenly.

    The unit of sharing is a block. Weights outside of blocks stay gathered during a pass, of the
    blocks the one at work and the next; gradients of both kinds are whole before they are shared.
    What is gathered is in the format of products, and so is the residual stream.
    """
    block = sum(p.numel() for p in network.blocks[0].parameters())
    root = _count(network) - block * len(network.blocks)
    gathered = load.products.itemsize
    return _memory(
        network,
        load,
        kind,
        computed=replace(load, weights=load.products),
        shards=devices,
        has_ema=has_ema,
        exchange=(root + 2 * block) * gathered,
        early_gradients=(root + block) * gathered,
    )


def _memory(
    network: Transformer,
    load: Load,
    kind: OptimizerKind,
    *,
    computed: Load,
    shards: int,
    has_ema: bool,
    exchange: int,
    early_gradients: int,
) -> Memory:
    """Add up: the peak is at the loss, in the first block backwards, or in the update."""
    weights = _count(network) * load.weights.itemsize // shards
    optimizer = optimizer_bytes(network, kind, load) // shards
    ema = weights if has_ema else 0
    inputs, insides = block_inputs(network, computed), block_insides(network, computed)
    loss = loss_bytes(network, computed)
    whole_blocks = len(network.blocks) - 1 + load.masked_share  # the last one's answers only
    kept = inputs + (0 if load.recomputes else int(whole_blocks * insides))
    backward = backward_bytes(network, computed) + (insides if load.recomputes else 0)
    stays = weights + optimizer + ema + exchange + (weights if load.accumulates else 0)
    peak = max(
        stays + kept + loss,
        stays + kept + early_gradients + backward,
        2 * weights + optimizer + ema + update_bytes(network, kind, load) // shards,
    )
    shared = exchange + (early_gradients if shards > 1 else 0)
    return Memory(weights, weights, optimizer, ema, shared, kept, loss, peak)


def _count(network: Transformer) -> int:
    return sum(p.numel() for p in network.parameters())


def _matrices(network: Transformer) -> list[torch.Tensor]:
    """Parameters that Muon orthogonalises."""
    groups = [g for g in decay_groups(network, 0.0) if g["kind"] in ("matrices", "filters")]
    return [p for group in groups for p in group["params"]]  # type: ignore[attr-defined]
