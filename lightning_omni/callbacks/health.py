"""Detect failing runs while they are training."""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import lightning as L

from lightning_omni.callbacks.logged_step import logged_step
from lightning_omni.callbacks.tensorboard_media import MediaLog
from lightning_omni.callbacks.throughput import Throughput

log = logging.getLogger(__name__)

_ENOUGH = 10  # logged values before a rule applies
_SLOW, _FAST = 0.01, 0.05  # weights of the newest value in the running means
_SIGNIFICANT = 4.0  # standard errors of the fast mean that a rise must exceed


@dataclass(slots=True)
class _RunningMeans:
    """Long-run and recent mean of a metric, and its variance."""

    slow: float
    fast: float
    variance: float = 0.0
    count: int = 0

    def update_means(self, value: float) -> None:
        """Update the means with a value."""
        self.variance += _SLOW * ((value - self.slow) ** 2 - self.variance)
        self.slow += _SLOW * (value - self.slow)
        self.fast += _FAST * (value - self.fast)
        self.count += 1

    def has_risen(self, ratio: float) -> bool:
        """Tell whether the recent mean exceeds the long-run mean significantly."""
        error = math.sqrt(self.variance * _FAST / (2 - _FAST))
        is_known = self.count >= 1 / _SLOW
        return is_known and self.fast > max(ratio * self.slow, self.slow + _SIGNIFICANT * error)


class HealthMonitor(L.Callback):
    """Logs alerts to the console and to `health/alerts`, and their number to `monitor/alerts`.

    Rules apply to the logged metrics: a loss that is not finite; a gradient norm far above its
    median; waiting for data that takes too large a share of a step; low codebook usage; a
    mask-ratio bin whose loss rises significantly while the total falls.

    Args:
        max_gradient_ratio: largest gradient norm relative to the median of the last hundred.
        max_wait_share: largest share of a step spent waiting for data.
        min_usage: smallest share of codes in use at validation.
        rise: largest recent loss of a bin relative to its long-run mean.
        quiet_steps: steps before an alert is repeated.
    """

    def __init__(
        self,
        max_gradient_ratio: float = 10.0,
        max_wait_share: float = 0.3,
        min_usage: float = 0.2,
        rise: float = 1.2,
        quiet_steps: int = 500,
    ) -> None:
        self.max_gradient_ratio, self.max_wait_share = max_gradient_ratio, max_wait_share
        self.min_usage, self.rise, self.quiet_steps = min_usage, rise, quiet_steps
        self.alerts: list[tuple[int, str]] = []
        self._gradients: deque[float] = deque(maxlen=100)
        self._means: dict[str, _RunningMeans] = {}
        self._last_alert: dict[str, int] = defaultdict(lambda: -(10**9))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Check the metrics that were just logged."""
        if logged_step(trainer) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            values = {k: float(v) for k, v in trainer.logged_metrics.items()}
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Throughput):
                    values |= callback.latest
            self._log_alerts(trainer, dict(self.find_problems(values)))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check codebook usage."""
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self._log_alerts(trainer, dict(self.find_low_codebook_usage(values)))

    def find_problems(self, values: dict[str, float]) -> Iterator[tuple[str, str]]:
        """Yield `(rule, message)` for each problem in a step's metrics."""
        for name, value in values.items():
            if "loss" in name and not math.isfinite(value):
                yield f"finite {name}", f"{name} is {value}; lower the learning rate"
        norm = values.get("optim/grad_norm")
        if norm is not None:
            yield from self._find_large_gradient(norm)
        wait, compute = values.get("perf/data_wait_s"), values.get("perf/compute_s")
        if wait and compute and wait / (wait + compute) > self.max_wait_share:
            share = wait / (wait + compute)
            yield "wait", f"{share:.0%} of the time is spent waiting for data; add workers"
        yield from self._find_rising_losses(values)

    def find_low_codebook_usage(self, values: dict[str, float]) -> Iterator[tuple[str, str]]:
        """Yield `(rule, message)` for every codebook of low usage."""
        for name, value in values.items():
            if name.startswith("tokenizer/") and "/usage" in name and value < self.min_usage:
                yield name, f"{name} is {value:.0%}; the codebook may be collapsing"

    def _find_large_gradient(self, norm: float) -> Iterator[tuple[str, str]]:
        if len(self._gradients) >= _ENOUGH:
            usual = median(self._gradients)
            if not norm <= self.max_gradient_ratio * usual:
                yield "gradient", f"the gradient norm is {norm:.3g}, its median {usual:.3g}"
        if math.isfinite(norm):
            self._gradients.append(norm)

    def _find_rising_losses(self, values: dict[str, float]) -> Iterator[tuple[str, str]]:
        for name, value in values.items():
            if name.startswith("train_loss_t_") or name == "train/loss":
                self._means.setdefault(name, _RunningMeans(value, value)).update_means(value)
        total = self._means.get("train/loss")
        if total is None or total.fast > total.slow:
            return
        for name, mean in self._means.items():
            if name != "train/loss" and mean.has_risen(self.rise):
                yield (
                    f"rise {name}",
                    f"{name} rises ({mean.slow:.3g} to {mean.fast:.3g}) while the total falls",
                )

    def _log_alerts(self, trainer: L.Trainer, found: dict[str, str]) -> None:
        step = logged_step(trainer)
        due = {k: v for k, v in found.items() if step - self._last_alert[k] >= self.quiet_steps}
        if not due or not trainer.is_global_zero:
            return
        media = MediaLog(trainer)
        for rule, message in due.items():
            self._last_alert[rule] = step
            self.alerts.append((step, message))
            log.warning("health, step %d: %s", step, message)
        rows = [[str(at), message] for at, message in self.alerts]
        media.write_table("health/alerts", ["step", "what"], rows)
        for logger in trainer.loggers:
            logger.log_metrics({"monitor/alerts": float(len(self.alerts))}, step=step)
