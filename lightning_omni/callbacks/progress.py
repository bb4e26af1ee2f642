"""Progress as log lines where there is no terminal, and bars that do not wait for a GPU."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L

from lightning_omni.callbacks.logged_step import logged_step

log = logging.getLogger(__name__)

EVERY_S = 20.0

SHOWN = ("train/loss", "train/l1", "train_loss/spectral", "tokenizer/image/train_usage")
"""Metrics of a training step that a progress bar shows.

They are not logged with `prog_bar`: Lightning would read them in every step, for which the host
waits until the GPU has come so far.
"""


class BarMetrics:
    """What a progress bar shows: on GPUs the metrics of the last logged step, else of the last one.

    Args:
        read: `get_metrics` of the bar, what Lightning shows.
    """

    def __init__(self, read: Callable[..., Any]) -> None:
        self.read = read
        self.shown: dict[str, float] = {}

    def __call__(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return names and values."""
        is_logged = logged_step(trainer) % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if trainer.training and (is_logged or trainer.strategy.root_device.type == "cpu"):
            self.shown = read_shown_metrics(trainer)
        return {**self.read(trainer, pl_module), **self.shown}


def read_shown_metrics(trainer: L.Trainer) -> dict[str, float]:
    """Return the metrics to show of the last training step; a GPU is waited for."""
    found = trainer.callback_metrics
    return {name: float(found[name]) for name in SHOWN if name in found}


class PlainProgress(L.Callback):
    """Logs step, loss and time left every `EVERY_S` seconds unless stdout is a terminal.

    It also gives the progress bar its metrics, see `BarMetrics`.
    """

    def __init__(self) -> None:
        self.started = self.last = 0.0
        self.first_step = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the progress bar its metrics."""
        bar: Any = trainer.progress_bar_callback
        if bar is not None and not isinstance(bar.get_metrics, BarMetrics):
            bar.get_metrics = BarMetrics(bar.get_metrics)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.started = self.last = time.monotonic()
        self.first_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log a line every `EVERY_S` seconds."""
        now = time.monotonic()
        if sys.stdout.isatty() or not trainer.is_global_zero or now - self.last < EVERY_S:
            return
        self.last = now
        done, total = trainer.global_step, trainer.max_steps
        rate = max(done - self.first_step, 1) / (now - self.started)
        values = {**trainer.progress_bar_metrics, **read_shown_metrics(trainer)}
        shown = {name: round(float(value), 3) for name, value in values.items()}
        left = f", {(total - done) / rate:.0f} s left" if total > 0 else ""
        log.info("step %d of %d, %.1f steps/s%s %s", done, total, rate, left, shown)
