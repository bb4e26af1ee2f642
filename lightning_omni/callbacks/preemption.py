"""Save and stop at a step's end when any process of a run is asked to."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from lightning_omni.callbacks.ema import EMA
from lightning_omni.callbacks.signal_agreement import SignalAgreement
from lightning_omni.callbacks.slurm_requeue import requeue_slurm_job
from lightning_omni.modules.sharding import ShardedStrategy
from lightning_omni.stop_signals import EXIT_CODES, Stopped, signal_name

_LAST = "last.ckpt"
_AGAIN_S = 1.0  # a terminal and a launcher both pass on one Ctrl-C
_LEAVE_S = 5.0


class Preemption(L.Callback):
    """Saves the last checkpoint and stops when any process gets SIGTERM, SIGUSR1 or SIGINT.

    The processes agree at the end of a step of the optimizer, or of a batch of validation, whose
    rest is left out. They leave with the codes of `EXIT_CODES`; nothing is exported. A second
    SIGINT stops at once. After SIGUSR1 a job of Slurm is put into its queue again.

    Takes the place of Lightning's own handlers, of which one process alone waits for the others.

    Raises:
        Stopped: To stop.
    """

    def __init__(self) -> None:
        self.received, self._received_s = 0, 0.0
        self._agreement = SignalAgreement()
        self._handlers: dict[int, Any] = {}
        self._last_step = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep Lightning from handling signals, and from asking the device for them each step."""
        trainer._signal_connector.register_signal_handlers = _do_nothing  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing  # type: ignore[method-assign]
        if stage == "fit":
            self._agreement.make_process_group()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note signals from here on."""
        self.received, self._last_step = 0, trainer.global_step
        self._begin_noting()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note signals in a further epoch."""
        self._begin_noting()

    def _note_signal(self, number: int, frame: Any) -> None:
        now, is_first = time.monotonic(), not self.received
        if number == signal.SIGINT and not is_first and now - self._received_s > _AGAIN_S:
            raise KeyboardInterrupt
        self.received = max(self.received, EXIT_CODES[signal.Signals(number)])
        if is_first:
            self._received_s = now
            if number == signal.SIGINT:  # unbuffered, as the signal may come while another writes
                os.write(2, b"\nstopping when this step is done; press Ctrl-C again to stop now\n")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop if all have agreed to."""
        if trainer.global_step != self._last_step:  # else gradients are accumulated
            self._last_step = trainer.global_step
            self._stop_if_agreed(trainer, self._agreement.exchange(self.received))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop rather than validate if all agree to."""
        if self._can_stop_validation(trainer):
            self._stop_if_agreed(trainer, self._agreement.exchange_now(self.received))

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Stop if all agree to, with the weights in training in place of their average."""
        if not self._can_stop_validation(trainer):
            return
        agreed = self._agreement.exchange_now(self.received)
        if agreed:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, EMA | WeightAveraging):
                    callback.on_validation_epoch_end(trainer, pl_module)
        self._stop_if_agreed(trainer, agreed)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if all agree to, and leave later signals to the command, which ends at once."""
        self._stop_if_agreed(trainer, self._agreement.exchange_now(self.received))
        self._restore_handlers()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Stop the processes that this one has started, unless all have agreed to."""
        self._restore_handlers()
        launcher = trainer.strategy.launcher
        if isinstance(exception, Stopped) and isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGTERM)
            launcher.procs.clear()  # this process leaves by itself

    def _can_stop_validation(self, trainer: L.Trainer) -> bool:
        """Whether this is validation in training, and no gradients wait that a stop would lose."""
        return bool(self._handlers) and not trainer.fit_loop.epoch_loop._should_accumulate()

    def _begin_noting(self) -> None:
        if not self._handlers and threading.current_thread() is threading.main_thread():
            self._handlers = {one: signal.signal(one, self._note_signal) for one in EXIT_CODES}

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _stop_if_agreed(self, trainer: L.Trainer, agreed: int) -> None:
        if not agreed:
            return
        self._agreement.finish_exchange()
        saved = save_last_checkpoint(trainer)
        message = f"stopped by {signal_name(agreed)} after step {trainer.global_step}"
        if saved is None:
            message += "; the run keeps no checkpoints, so nothing is saved"
        else:
            message += f"; --ckpt_path {saved} goes on from there"
        if signal_name(agreed) == "SIGUSR1":
            if trainer.is_global_zero:
                requeue_slurm_job()
            trainer.strategy.barrier("requeued")  # as Slurm may kill all when one has left
        _release_children(trainer)
        raise Stopped(agreed, message if trainer.is_global_zero else "")


def save_last_checkpoint(trainer: L.Trainer) -> str | None:
    """Save what a run goes on from, unless this step has been saved, and wait until it is written.

    Every process has to call it.

    Returns:
        Path of the checkpoint; None if the run keeps none.
    """
    kept = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    if not kept:
        return None
    keeper = next((one for one in kept if _keeps_whole_last_checkpoint(one)), None)
    if keeper is not None:
        if not (keeper._last_global_step_saved == trainer.global_step and keeper.last_model_path):
            keeper._save_last_checkpoint(trainer, keeper._monitor_candidates(trainer))
        path = keeper.last_model_path
    else:
        path = os.path.join(kept[0].dirpath or trainer.default_root_dir, _LAST)
        if trainer.is_global_zero and os.path.islink(path):
            os.remove(path)  # and not write into the checkpoint behind it
        trainer.save_checkpoint(path)
    if isinstance(trainer.strategy, ShardedStrategy):
        trainer.strategy.finish_checkpoint()
    trainer.strategy.barrier("saved")
    return path


def _keeps_whole_last_checkpoint(keeper: ModelCheckpoint) -> bool:
    """Whether a run goes on from what it writes, not weights alone nor a link to an older one."""
    return keeper.save_last is True and not keeper.save_weights_only


def _release_children(trainer: L.Trainer) -> None:
    """Let processes that Lightning started here leave by themselves, before this one does.

    Its observer kills all when one leaves with another code than 0.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return
    children, until = list(launcher.procs), time.monotonic() + _LEAVE_S
    launcher.procs.clear()
    while any(child.poll() is None for child in children) and time.monotonic() < until:
        time.sleep(0.05)


def _do_nothing() -> None:
    pass
