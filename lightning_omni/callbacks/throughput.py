"""Log how long the parts of a training step take, and the composition of batches."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning as L
import torch

from lightning_omni.callbacks.tensorboard_layout import write_layout
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import Batch


class _LastOfAll(L.Callback):
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
    `log_every_n_steps`. On a GPU, which runs asynchronously, only the sum is exact.

    `perf/peak_gb` is the value of `peak_memory_gb`.

    Attributes:
        latest: values logged last.
    """

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self.started = self.ended = time.perf_counter()
        self._restart()

    def _restart(self) -> None:
        self.wait_s = self.compute_s = self.forward_s = self.backward_s = 0.0
        self.tokens = self.useful = self.answer = self.samples = self.steps = 0
        self.tasks = torch.zeros(len(TASK_NAMES))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Append the callback that starts the waiting time."""
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, _LastOfAll) for callback in callbacks):
            callbacks.append(_LastOfAll(self))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Arrange the charts of the run."""
        write_layout(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop the waiting time."""
        self.started = time.perf_counter()
        self.wait_s += self.started - self.ended

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        """Note the end of the forward pass."""
        self.forward_s += time.perf_counter() - self.started

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the end of the backward pass."""
        self.backward_s += time.perf_counter() - self.started

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
        if isinstance(batch, Batch):
            self._count_tokens(batch)
        else:
            self.samples += len(batch)
        self.steps += 1
        if self.steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._log(trainer)

    def _count_tokens(self, batch: Batch) -> None:
        used = batch.tasks >= 0
        self.tokens += batch.ids.numel()
        self.useful += int((batch.tasks[batch.segment_ids] >= 0).sum())
        self.answer += int(batch.maskable.sum())
        self.tasks += torch.bincount(batch.tasks[used].cpu(), minlength=len(TASK_NAMES))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the gradient norm before clipping, and the learning rate."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads)
            pl_module.log("optim/grad_norm", norm, batch_size=1)
            pl_module.log("optim/lr", optimizer.param_groups[0]["lr"], batch_size=1)
            for k, group in enumerate(optimizer.param_groups[1:], start=1):
                pl_module.log(f"optim/lr_group{k}", group["lr"], batch_size=1)

    def _log(self, trainer: L.Trainer) -> None:
        total_s = self.wait_s + self.compute_s
        values = {
            "perf/data_wait_s": self.wait_s / self.steps,
            "perf/compute_s": self.compute_s / self.steps,
            "perf/peak_gb": peak_memory_gb(trainer.strategy.root_device),
            **(self._token_values(total_s) if self.tokens else self._sample_values(total_s)),
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        self.latest = values
        self._restart()

    def _sample_values(self, total_s: float) -> dict[str, float]:
        return {"perf/samples_per_s": self.samples / total_s}

    def _token_values(self, total_s: float) -> dict[str, float]:
        values = {
            "perf/tokens_per_s": self.tokens / total_s,
            "perf/useful_tokens_per_s": self.useful / total_s,
            "perf/forward_s": self.forward_s / self.steps,
            "perf/backward_s": (self.backward_s - self.forward_s) / self.steps,
            "perf/update_s": (self.compute_s - self.backward_s) / self.steps,
            "data/packing_efficiency": self.useful / self.tokens,
            "data/answer_share": self.answer / self.tokens,
        }
        shares = self.tasks / self.tasks.sum()
        values |= {f"data_task/{n}": float(s) for n, s in zip(TASK_NAMES, shares, strict=True) if s}
        return values


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory used so far, in 10^9 bytes.

    On a GPU that of its tensors, otherwise the resident memory of this process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
