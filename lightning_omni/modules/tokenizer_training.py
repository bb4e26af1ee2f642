"""Base of the tokenizers' training: a network and its discriminator, optimized by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_omni.modules.replicas import average_gradients
from lightning_omni.modules.sharding import is_sharded, shard_parts
from lightning_omni.optim.optimizer import OptimizerFactory, build_optimizer_and_schedule
from lightning_omni.optim.schedule import check_schedule


class TokenizerTraining(L.LightningModule):
    """Trains a tokenizer, and its discriminator if it has one, with an optimizer for each.

    A subclass sets `tokenizer` and `discriminator`.

    Args:
        optimizer: Builds the optimizers from parameter groups.
        weight_decay: Weight decay of matrices.
        warmup_steps: Steps of linear warm-up of the learning rate.
        total_steps: Step at which its cosine ends.
        final_lr_share: Share of the learning rate at that step.

    Attributes:
        updates: Number of updates; with a discriminator `global_step` counts both optimizers.
        step_losses: Losses of the step by name, those of the discriminator too.
    """

    def __init__(
        self,
        optimizer: OptimizerFactory,
        weight_decay: float,
        warmup_steps: int,
        total_steps: int,
        final_lr_share: float,
    ) -> None:
        super().__init__()
        check_schedule(warmup_steps, total_steps, final_lr_share, weight_decay)
        self.automatic_optimization = False
        self.optimizer_factory, self.weight_decay = optimizer, weight_decay
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.final_lr_share = final_lr_share
        self.updates = 0
        self.step_losses: dict[str, Tensor] = {}
        self._kept: list[list[tuple[Tensor, Tensor]]] = []

    def configure_model(self) -> None:
        """Shard the networks if the strategy has a mesh of devices."""
        if self.device_mesh is not None and not is_sharded(self):
            self.shard(self.device_mesh["data_parallel"])

    def shard(self, mesh: DeviceMesh) -> None:
        """Share out the weights of both networks over devices, part by part, in float32."""
        for network in self._networks():
            shard_parts(network, mesh)

    def configure_optimizers(self) -> Any:
        """Build an optimizer and its schedule for each network."""
        built = [build_optimizer_and_schedule(self, network) for network in self._networks()]
        return [optimizer for optimizer, _ in built], [schedule for _, schedule in built]

    def optimizers_and_schedules(self) -> tuple[list[Any], list[Any]]:
        """Return the optimizer and the schedule of each network."""
        optimizers: Any = self.optimizers()
        schedules: Any = self.lr_schedulers()
        if not isinstance(optimizers, list):
            return [optimizers], [schedules]
        return optimizers, schedules

    def finish_step(self, optimizer: Any, schedule: Any) -> None:
        """Update the weights of a toggled optimizer by their gradients, clipped to norm 1."""
        average_gradients(self, (p for group in optimizer.param_groups for p in group["params"]))
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        schedule.step()

    def note_losses(self, losses: Mapping[str, Tensor], batch_size: int) -> None:
        """Log losses as `train_loss/NAME`, and keep them for who looks for spikes."""
        for name, value in losses.items():
            self.step_losses[name] = value.detach()
            self.log(f"train_loss/{name}", self.step_losses[name], batch_size=batch_size)

    def begin_step(self) -> None:
        """Keep codebooks and statistics of each network, which a forward pass changes."""
        self.step_losses = {}
        self._kept = [[(b, b.clone()) for b in network.buffers()] for network in self._networks()]

    def restore_buffers(self, skips: Sequence[Tensor]) -> None:
        """Put back what was kept of networks whose update was skipped; no device is waited for.

        Args:
            skips: Numbers, 1 where an update was skipped, of the optimizers that had their turn;
                a network whose optimizer had none goes with the last that had.
        """
        for number, buffers in enumerate(self._kept):
            skip = skips[min(number, len(skips) - 1)]
            if skip.is_cuda or bool(skip):
                for buffer, kept in buffers:
                    buffer.copy_(torch.where(skip > 0, kept, buffer))
        self._kept = []

    def _networks(self) -> list[nn.Module]:
        """Return the tokenizer, and the discriminator if there is one."""
        return [n for n in (self.tokenizer, self.discriminator) if isinstance(n, nn.Module)]
