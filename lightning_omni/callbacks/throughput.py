"""Log how long the parts of a training step take, and the composition of batches."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

import lightning as L
import torch

from lightning_omni.callbacks.hyper_parameters import write_hyper_parameters
from lightning_omni.callbacks.logged_step import logged_step
from lightning_omni.callbacks.step_times import StepTimer
from lightning_omni.callbacks.tensorboard_layout import write_layout
from lightning_omni.devices import peak_memory_gb
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.nn.flops import peak_flops, training_flops
from lightning_omni.nn.sharded_tensors import gather_tensor
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import Batch

if sys.platform != "win32":
    pass


class _WaitingTimeStart(L.Callback):
    """Starts the waiting time when every other callback is done."""

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exclude setup from the waiting time."""
        self.throughput.ended = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Exclude validation from the waiting time."""
        self.throughput.ended = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Exclude samples, checkpoints and logs from the waiting time."""
        self.throughput.ended = time.perf_counter()


class Throughput(L.Callback):
    """Logs tokens per second, times of a step's parts, packing efficiency and the task mix.

    Runs of tokenizers, whose batches hold no tokens, log samples per second and waiting time.

    `perf/data_wait_s` is the time until the next batch is available, without validation, samples
    and checkpoints. `perf/compute_s` is the time of the step itself: `perf/forward_s`,
    `perf/backward_s` and `perf/update_s` (clipping and optimizer). Means are over
    `log_every_n_steps`. The parts of a step are measured by `StepTimer`.

    `perf/mfu` is the share of the GPU's datasheet peak that `training_flops` amount to in the time
    of steps and waiting (MFU, PaLM, arXiv:2204.02311, appendix B); on GPUs of unknown peak, on CPUs
    and with frozen weights it is not logged. `perf/peak_gb` is the value of `peak_memory_gb`.

    Attributes:
        latest: values logged last.
    """

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self.started = self.ended = time.perf_counter()
        self.times = StepTimer(torch.device("cpu"))
        self.peak_flops: float | None = None
        self._reset_counts()

    def _reset_counts(self) -> None:
        self.wait_s = self.compute_s = 0.0
        self.tokens = self.useful = self.answer = self.samples = self.steps = self.flops = 0
        self.tasks: Counter[int] = Counter()
        self.times.reset_sums()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Append the callback that starts the waiting time."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, _WaitingTimeStart) for callback in callbacks):
            callbacks.append(_WaitingTimeStart(self))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Arrange the charts of the run, and look at the device."""
        write_layout(trainer, pl_module)
        device = trainer.strategy.root_device
        self.times = StepTimer(device)
        if isinstance(pl_module, MaskedDiffusionModule) and device.type == "cuda":
            weights = pl_module.backbone.blocks.parameters()
            is_whole = all(weight.requires_grad for weight in weights)
            name = torch.cuda.get_device_name(device)
            self.peak_flops = peak_flops(name) if is_whole else None

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the settings of the run beside its final metrics, evaluation included."""
        if stage == "fit":
            write_hyper_parameters(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop the waiting time."""
        self.started = time.perf_counter()
        self.wait_s += self.started - self.ended
        self.times.start_step(self.started)

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        """Note the end of the forward pass."""
        self.times.mark_end_of_part(time.perf_counter())

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the end of the backward pass."""
        self.times.mark_end_of_part(time.perf_counter())

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step, and log every `log_every_n_steps`."""
        self.ended = time.perf_counter()
        self.compute_s += self.ended - self.started
        self.times.end_step(self.ended)
        if isinstance(batch, Batch):
            self._count_tokens(batch, pl_module)
        else:
            self.samples += len(batch)
        self.steps += 1
        if self.steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._log_throughput(trainer)

    def _count_tokens(self, batch: Batch, module: L.LightningModule) -> None:
        """Count what a batch holds, without waiting for the device."""
        used = [n for n, task in zip(batch.lengths, batch.host_tasks, strict=True) if task >= 0]
        self.tokens += sum(batch.lengths)
        self.useful += sum(used)
        self.answer += batch.num_maskable
        self.tasks.update(task for task in batch.host_tasks if task >= 0)
        num_losses = None if batch.noisy is None else batch.noisy.num_losses
        if used and num_losses is not None and isinstance(module, MaskedDiffusionModule):
            self.flops += training_flops(module.backbone, used, num_losses)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the gradient norm before clipping, and the learning rate, of each optimizer."""
        if (_count_stepped_batches(trainer) + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        suffix = "_critic" if optimizer in trainer.optimizers[1:] else ""
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None and id(p) in own]
        norm = gather_tensor(torch.nn.utils.get_total_norm(grads))
        pl_module.log(f"optim/grad_norm{suffix}", norm, batch_size=1)
        for k, group in enumerate(optimizer.param_groups):
            name = f"optim/lr{suffix}_group{k}" if k else f"optim/lr{suffix}"
            pl_module.log(name, group["lr"], batch_size=1)

    def _log_throughput(self, trainer: L.Trainer) -> None:
        total_s = self.wait_s + self.compute_s
        memory_gb = peak_memory_gb(trainer.strategy.root_device)
        values = {
            "perf/data_wait_s": self.wait_s / self.steps,
            "perf/compute_s": self.compute_s / self.steps,
            **({} if memory_gb is None else {"perf/peak_gb": memory_gb}),
            **(self._token_metrics(total_s) if self.tokens else self._sample_metrics(total_s)),
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=logged_step(trainer))
        self.latest = values
        self._reset_counts()

    def _sample_metrics(self, total_s: float) -> dict[str, float]:
        return {"perf/samples_per_s": self.samples / total_s}

    def _token_metrics(self, total_s: float) -> dict[str, float]:
        values = {
            "perf/tokens_per_s": self.tokens / total_s,
            "perf/useful_tokens_per_s": self.useful / total_s,
            **self.times.mean_times(),
            "data/packing_efficiency": self.useful / self.tokens,
            "data/answer_share": self.answer / self.tokens,
        }
        if self.peak_flops is not None:
            values["perf/mfu"] = self.flops / total_s / self.peak_flops
        shares = {TASK_NAMES[k]: n / self.tasks.total() for k, n in self.tasks.items()}
        return values | {f"data_task/{name}": share for name, share in shares.items()}


def _count_stepped_batches(trainer: L.Trainer) -> int:
    """Return the number by which Lightning decides whether what is logged now is written."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)
