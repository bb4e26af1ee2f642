"""Build a recipe's optimizer: parameter groups by weight decay, with the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_omni.errors import OmniError
from lightning_omni.optim.schedule import warmup_cosine


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
