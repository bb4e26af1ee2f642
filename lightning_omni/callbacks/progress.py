"""Progress as log lines where there is no terminal for a progress bar."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import lightning as L

log = logging.getLogger(__name__)

EVERY_S = 20.0


class PlainProgress(L.Callback):
    """Logs step, loss and time left every `EVERY_S` seconds unless stdout is a terminal."""

    def __init__(self) -> None:
        self.started = self.last = 0.0
        self.first_step = 0

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
        shown = {k: round(float(v), 3) for k, v in trainer.progress_bar_metrics.items()}
        left = f", {(total - done) / rate:.0f} s left" if total > 0 else ""
        log.info("step %d of %d, %.1f steps/s%s %s", done, total, rate, left, shown)
