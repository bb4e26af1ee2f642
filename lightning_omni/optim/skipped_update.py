"""Optimizers that leave out an update: on the device, or for want of gradients."""

from __future__ import annotations

from torch.optim import Optimizer

from lightning_omni.optim.muon import MuonAdamW


def skips_on_device(optimizer: Optimizer) -> bool:
    """Whether an optimizer reads `found_inf`, a number of a GPU that is 1 if it shall do nothing.

    So do torch's fused ones, for which `GradScaler` sets it. On CPUs there is nothing to wait for.
    """
    groups = optimizer.param_groups
    is_on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    reads = isinstance(optimizer, MuonAdamW) or all(group.get("fused") for group in groups)
    return is_on_gpu and reads


def drop_gradients(optimizer: Optimizer) -> None:
    """Let an optimizer find no gradients, so that it changes neither weights nor its own state."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = None
