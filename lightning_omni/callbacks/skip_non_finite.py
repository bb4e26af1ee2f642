"""Skip steps whose loss or gradients are not finite, on all processes alike."""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from statistics import median
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lightning_omni.argument_checks import check_within
from lightning_omni.callbacks.ema import AVERAGED
from lightning_omni.callbacks.logged_step import logged_step
from lightning_omni.callbacks.preemption import save_last_checkpoint
from lightning_omni.data.resumable_data import ResumableData
from lightning_omni.errors import OmniError
from lightning_omni.modules.finite_weights import check_weights_are_finite, has_non_finite
from lightning_omni.modules.tokenizer_training import TokenizerTraining
from lightning_omni.nn.ranks import world_size
from lightning_omni.optim.skipped_update import drop_gradients, skips_on_device
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import Batch

log = logging.getLogger(__name__)

_SPIKE = 5.0
_USUAL = 100  # losses of which the median is taken
_ENOUGH = 20  # losses before a spike is called one
_MAX_NAMED = 20
_LEAST_USUAL = {"adversarial": 0.2, "critic": 0.2}
"""Hinge losses, of the scale 1, are often near zero: they count as usual up to five times this."""


class SkipNonFinite(L.Callback):
    """Skips a step if the loss or a gradient of any process is not finite, and counts it.

    Weights, optimizers and codebooks stay as they are; so do those of a critic in a step whose
    tokenizer is skipped, and of a critic alone if only its loss is not finite. The samples of a
    skipped step are logged, and those of a loss of more than five times the median of the last
    hundred, of a tokenizer of each of its losses; such a step is not skipped. Weights that are not
    finite are not saved. With `16-mixed` only losses are looked at: its scaler skips gradients by
    itself, as it finds its scale.

    On GPUs nothing is waited for: the update is skipped on the device, and what was skipped is read
    at logged steps. Optimizers that cannot (all but MuonAdamW and fused ones) are waited for.

    Args:
        stop_after: Skipped steps in a row that end training, after a checkpoint.

    Attributes:
        skipped: Number of skipped steps of the run, resumed ones included.
        in_a_row: How many the last steps are of.
        skips: Whether the update of each optimizer that had its turn in this step is skipped, as
            numbers of the device.

    Raises:
        OmniError: If so many were skipped in a row, or weights to be saved are not finite.
    """

    def __init__(self, stop_after: int = 10) -> None:
        check_within("stop_after", stop_after, 1)
        self.stop_after = stop_after
        self.skipped = self.in_a_row = 0
        self.skips: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._of_loss: list[Tensor] = []
        self._used: list[str] = []
        self._unread: list[tuple[int, list[str], list[str], Tensor]] = []
        self._usual: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_USUAL))
        self._has_scaler = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Look at weights before they are saved."""
        if isinstance(getattr(trainer.save_checkpoint, "__self__", None), L.Trainer):
            save = trainer.save_checkpoint

            def save_finite_checkpoint(filepath: Any, *args: Any, **kwargs: Any) -> None:
                check_weights_are_finite(trained_weights(trainer, pl_module), purpose="checkpoint")
                self._read_steps(trainer)
                save(filepath, *args, **kwargs)

            trainer.save_checkpoint = save_finite_checkpoint  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note what the batch holds."""
        self.skips = []
        self._used.append(name_samples(batch, getattr(trainer, "datamodule", None)))

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        """Add the loss to those of this step."""
        self._losses.append(loss.detach().float())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the optimizer from updating if a number of any process is not finite."""
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
        gradients = has_non_finite(p.grad for p in weights if p.grad is not None)
        if gradients is None or has_scaler:
            gradients = torch.zeros((), device=pl_module.device)
        loss = self._step_loss(pl_module, torch.zeros_like(gradients))
        own = torch.stack([(~loss.isfinite()).float(), gradients])
        seen = own.clone()
        if world_size() > 1:
            dist.all_reduce(seen, dist.ReduceOp.MAX)
        skips = seen.amax()
        if self.skips:  # a critic's turn
            skips = torch.maximum(skips, self.skips[-1])
        self.skips.append(skips)
        self._of_loss = [own[0], seen[0]]
        self._has_scaler = has_scaler
        if has_scaler:
            return  # it skips by itself
        if skips_on_device(optimizer):
            optimizer.found_inf = skips  # type: ignore[attr-defined]
        elif bool(skips):
            drop_gradients(optimizer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Restore what a skipped step changed beside its weights; read which steps were skipped."""
        if not self.skips:
            return  # gradients are accumulated
        if isinstance(pl_module, TokenizerTraining):
            pl_module.restore_buffers(self.skips)
        loss = self._step_loss(pl_module, torch.zeros_like(self.skips[-1]))
        named = _step_losses(pl_module) or {"loss": loss}
        found = torch.stack([loss, *self._of_loss, self.skips[-1], *named.values()])
        self._unread.append((logged_step(trainer), self._used, list(named), found))
        self._losses, self._used = [], []
        is_logged = logged_step(trainer) % max(1, trainer.log_every_n_steps) == 0  # type: ignore[attr-defined]
        if is_logged or not found.is_cuda:
            self._read_steps(trainer)
            self._stop_if_too_many(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of skipped steps."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def _read_steps(self, trainer: L.Trainer) -> None:
        """Count and log what was skipped since the last call; on GPUs the host waits once."""
        if not self._unread:
            return
        values = torch.cat([found for *_, found in self._unread]).tolist()
        steps, self._unread = self._unread, []
        before = self.skipped
        for step, used, names, found in steps:
            (loss, is_own, is_any, is_skipped, *losses), values = (
                values[: len(found)],
                values[len(found) :],
            )
            if is_skipped:
                self.skipped += 1
                self.in_a_row += 1
                what = _explain_skip(loss, is_own=bool(is_own), is_any=bool(is_any))
                log.warning("step %d is skipped: %s: %s", step, what, "; ".join(used))
            else:
                self.in_a_row = 0
                if not self._has_scaler:  # which multiplies losses
                    self._log_spikes(step, used, dict(zip(names, losses, strict=True)))
        if self.skipped > before:
            for logger in trainer.loggers:
                logger.log_metrics({"optim/skipped_steps": float(self.skipped)}, steps[-1][0])

    def _stop_if_too_many(self, trainer: L.Trainer) -> None:
        """Save and stop after too many skipped steps in a row, which all processes have counted."""
        in_a_row = self.in_a_row
        if in_a_row < self.stop_after:
            return
        self.in_a_row = 0  # a resumed run has as many attempts
        raise OmniError(_explain_stop(in_a_row, save_last_checkpoint(trainer)))

    def _step_loss(self, module: L.LightningModule, zero: Tensor) -> Tensor:
        """Return the sum of what is backpropagated, which is finite if each loss is.

        If a loss is not, also one that a tokenizer has noted, it is the sum of such losses.
        """
        own = torch.stack(self._losses or [zero])
        losses = torch.cat([own, *(value.reshape(1) for value in _step_losses(module).values())])
        is_finite = losses.isfinite()
        return torch.where(
            is_finite.all(), own.sum().nan_to_num(), losses.masked_fill(is_finite, 0.0).sum()
        )

    def _log_spikes(self, step: int, used: list[str], losses: dict[str, float]) -> None:
        """Log the samples of losses that are far above the usual ones."""
        for name, loss in losses.items():
            known = self._usual[name]
            usual = math.inf
            if len(known) >= _ENOUGH:
                usual = max(median(known), _LEAST_USUAL.get(name, 0.0))
            if abs(loss) > _SPIKE * usual > 0:
                what = "loss" if name == "loss" else f"{name} loss"
                about = f"step {step}: {what} {loss:.3g}, usually {usual:.3g}"
                log.warning("%s; samples: %s", about, "; ".join(used))
            known.append(abs(loss))


def _step_losses(module: L.LightningModule) -> dict[str, Tensor]:
    """Return the losses that a tokenizer has noted in this step, by name."""
    if not isinstance(module, TokenizerTraining):
        return {}
    return {name: value.float() for name, value in module.step_losses.items()}


def name_samples(batch: Any, data: Any) -> str:
    """Return what a training batch holds: keys of samples, or for media where they are read."""
    if isinstance(batch, Batch) and batch.keys:
        used = zip(batch.host_tasks, batch.keys, strict=True)
        named = [f"{TASK_NAMES[task]}/{key}" for task, key in used if task >= 0]
        more = len(named) - _MAX_NAMED
        return ", ".join(named[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    if isinstance(data, ResumableData) and data.latest is not None:
        lane, start, stop = data.latest
        return f"lane {lane} of the data from {start} to {stop}"
    return "not known"


def trained_weights(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Tensor]:
    """Return what training changes, by name: weights, buffers, and averages of callbacks."""
    found = dict(module.state_dict(keep_vars=True))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        averaged = getattr(callback, AVERAGED, None)
        if isinstance(averaged, dict):
            found |= {f"{AVERAGED}.{name}": value for name, value in averaged.items()}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _explain_skip(loss: float, *, is_own: bool, is_any: bool) -> str:
    """Return why a step is skipped, and whose samples are named behind it."""
    if is_own:
        return f"the loss is {loss}; samples"
    if is_any:
        return "another process's loss is not finite; samples of this process"
    if world_size() > 1:
        return "gradients of some process are not finite; samples of this process"
    return "gradients are not finite; samples"


def _explain_stop(in_a_row: int, saved: str | None) -> str:
    advice = f"go on with --ckpt_path {saved}" if saved else "start again"
    return (
        f"{in_a_row} steps in a row were skipped, as losses or gradients are not finite; {advice} "
        "and a lower learning rate, or without the samples logged above"
    )
