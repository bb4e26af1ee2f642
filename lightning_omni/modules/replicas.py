"""Several backward passes per step under DDP, whose reducer expects one with all parameters."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import lightning as L
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_omni.nn.ranks import sum_over_ranks, world_size


@contextmanager
def disable_gradient_sync(module: L.LightningModule) -> Generator[None, None, None]:
    """Keep DDP from reducing gradients; `average_gradients` does it before each update."""
    replicated = _find_ddp_wrapper(module)
    if replicated is None:
        yield
        return
    with replicated.no_sync():
        yield


def average_gradients(module: L.LightningModule, parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their means over the processes; nothing unless under DDP."""
    if _find_ddp_wrapper(module) is None:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    sum_over_ranks(gradients)
    for gradient in gradients:
        gradient /= world_size()


def _find_ddp_wrapper(module: L.LightningModule) -> DistributedDataParallel | None:
    trainer = module._trainer
    wrapper = None if trainer is None else trainer.strategy.model
    return wrapper if isinstance(wrapper, DistributedDataParallel) else None
