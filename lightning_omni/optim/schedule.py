"""Learning-rate schedule and weight-decay groups of the three modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_omni.errors import OmniError, check_within


def check_schedule(
    warmup_steps: int, total_steps: int, final_lr_share: float, weight_decay: float
) -> None:
    """Refuse options of a recipe that make no schedule.

    Raises:
        OmniError: If an option is out of range; names the first.
    """
    check_within("model.warmup_steps", warmup_steps, 0)
    check_within("model.total_steps", total_steps, 1)
    check_within("model.final_lr_share", final_lr_share, 0, 1)
    check_within("model.weight_decay", weight_decay, 0)


def warmup_cosine(
    optimizer: Optimizer, *, warmup_steps: int, total_steps: int, final_share: float
) -> LambdaLR:
    """Rise linearly for `warmup_steps`, then fall along a cosine to `final_share` of the rate."""

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, share)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return parameter groups: matrices, tables and filters decay, norms and biases do not.

    The `kind` of a group is for optimizers that treat them differently: `matrices` map vectors to
    vectors, `tables` hold one vector per id, `filters` are convolutions.
    """
    by_kind: dict[str, list[nn.Parameter]] = {k: [] for k in ("matrices", "tables", "filters")}
    vectors = []
    for name, p in module.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim < 2:
            vectors.append(p)
        elif p.ndim > 2:
            by_kind["filters"].append(p)
        else:
            by_kind["tables" if "embedding" in name else "matrices"].append(p)
    groups: list[dict[str, object]] = [
        {"params": found, "weight_decay": weight_decay, "kind": kind}
        for kind, found in by_kind.items()
        if found
    ]
    return [*groups, {"params": vectors, "weight_decay": 0.0, "kind": "vectors"}]


OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def build_optimizer(factory: OptimizerFactory, groups: Any) -> Optimizer:
    """Build the recipe's optimizer for parameter groups.

    Raises:
        OmniError: If the optimizer refuses one of the recipe's numbers.
    """
    try:
        return factory(groups)
    except ValueError as error:
        raise OmniError(f"model.optimizer: {error}") from error


class ScheduleOptions(Protocol):
    """Options of a recipe's `model` from which an optimizer and its schedule are made."""

    optimizer_factory: OptimizerFactory
    weight_decay: float
    warmup_steps: int
    total_steps: int
    final_lr_share: float


def build_optimizer_and_schedule(
    options: ScheduleOptions, network: nn.Module
) -> tuple[Optimizer, LambdaLR]:
    """Build a network's optimizer, its learning rate with warm-up and cosine."""
    groups = decay_groups(network, options.weight_decay)
    optimizer = build_optimizer(options.optimizer_factory, groups)
    schedule = warmup_cosine(
        optimizer,
        warmup_steps=options.warmup_steps,
        total_steps=options.total_steps,
        final_share=options.final_lr_share,
    )
    return optimizer, schedule
