"""Exponential moving average of the weights: on one device, replicated or sharded."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.modules.sharding import reshard
from lightning_omni.nn.sharded_tensors import gather_tensor

AVERAGED = "averaged"
"""Attribute and entry of the state of a callback that holds averaged weights by name."""
_LIGHTNING = "EMAWeightAveraging"


class EMA(L.Callback):
    """Average of the parameters in training; validation, test and exported weights use it.

    Buffers are not averaged. The average lies on the devices of the parameters, sharded as they
    are, and is part of checkpoints. Checkpoints of Lightning's EMAWeightAveraging are continued.

    Args:
        decay: share of the average that is kept at an update.
        every_n_steps: optimizer steps between updates.

    Raises:
        OmniError: If an argument is outside of its range.
    """

    def __init__(self, decay: float = 0.999, every_n_steps: int = 1) -> None:
        check_within("decay", decay, 0, 1)
        check_within("every_n_steps", every_n_steps, 1)
        self.decay, self.every_n_steps = decay, every_n_steps
        self.averaged: dict[str, Tensor] = {}
        self.updates, self.last_step = 0, 0

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints, the same as that of Lightning's EMA callback."""
        return _LIGHTNING

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the parameters, or with the average of a checkpoint."""
        self._distribute_average(pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Update the average after an optimizer step."""
        step = trainer.global_step
        if step > self.last_step and (step - 1) % self.every_n_steps == 0:
            self.update_average(pl_module)
            self.last_step = step

    @torch.no_grad()
    def update_average(self, module: L.LightningModule) -> None:
        """Move the average towards the parameters; the first update copies them."""
        averaged, current = self._local_averages_and_parameters(module)
        if self.updates == 0:
            torch._foreach_copy_(averaged, current)
        elif current and current[0].is_cuda:
            move_by_one_kernel(averaged, current, self.decay)
        else:
            move_towards(averaged, current, self.decay)
        self.updates += 1

    @torch.no_grad()
    def swap_weights(self, module: L.LightningModule) -> None:
        """Exchange the parameters and the average in place."""
        for averaged, current in zip(*self._local_averages_and_parameters(module), strict=True):
            kept = current.clone()
            current.copy_(averaged)
            averaged.copy_(kept)

    @torch.no_grad()
    def copy_to_parameters(self, module: L.LightningModule) -> None:
        """Set the parameters to the average."""
        averaged, current = self._local_averages_and_parameters(module)
        torch._foreach_copy_(current, averaged)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the parameters to the average for good: what is exported."""
        self.copy_to_parameters(pl_module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Use the average, in training or of a checkpoint."""
        if self.averaged:
            self._distribute_average(pl_module)
            self.swap_weights(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go back to the weights in training."""
        if self.averaged:
            self.swap_weights(pl_module)

    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end

    def state_dict(self) -> dict[str, Any]:
        """Return the average by the names of the parameters, and how often it was updated."""
        return {AVERAGED: self.averaged, "updates": self.updates, "last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over an average; it is put in its place when training or validation begins."""
        if AVERAGED in state_dict:
            self.averaged, self.updates = dict(state_dict[AVERAGED]), state_dict["updates"]
        self.last_step = state_dict.get("last_step", state_dict.get("latest_update_step", 0))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the average of Lightning's callback, which is the `state_dict` there."""
        current = checkpoint.get("current_model_state")
        if current is None:
            return
        names = dict(pl_module.named_parameters())
        self.averaged = {name: checkpoint["state_dict"][name].clone() for name in names}
        self.updates = int(checkpoint["averaging_state"]["n_averaged"])
        pl_module.load_state_dict(current)

    def _distribute_average(self, module: L.LightningModule) -> None:
        """Give the average the devices and shards of the parameters."""
        self.averaged = {
            name: _copy_like(self.averaged.get(name, p), p)
            for name, p in _detached_parameters(module)
        }

    def _local_averages_and_parameters(
        self, module: L.LightningModule
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return this process's parts of the average and of the parameters."""
        current = dict(_detached_parameters(module))
        return (
            [_local_shard(self.averaged[name]) for name in current],
            [_local_shard(p) for p in current.values()],
        )


def move_towards(averaged: list[Tensor], current: list[Tensor], decay: float) -> None:
    """Move averages towards current values, rounded as by Lightning's average."""
    torch._foreach_mul_(averaged, decay)
    torch._foreach_add_(averaged, torch._foreach_mul(current, 1 - decay))


def move_by_one_kernel(averaged: list[Tensor], current: list[Tensor], decay: float) -> None:
    """Do the same without a copy of all weights, equal within rounding: for GPUs."""
    torch._foreach_lerp_(averaged, current, 1 - decay)


def _detached_parameters(module: L.LightningModule) -> list[tuple[str, Tensor]]:
    """Return the weights that training updates, by name; gathered ones are freed before."""
    reshard(module)
    return [(name, p.detach()) for name, p in module.named_parameters()]


def _local_shard(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copy_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a copy of a value with the device and the shards of another tensor."""
    if isinstance(like, DTensor):
        if isinstance(value, DTensor):
            return value.redistribute(like.device_mesh, like.placements).clone()
        whole = value.detach().to(like.device, copy=True)
        return distribute_tensor(whole, like.device_mesh, like.placements)
    return gather_tensor(value).detach().to(like.device, copy=True)
