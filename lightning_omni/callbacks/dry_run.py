"""Runs that try a few batches and write nothing."""

from __future__ import annotations

import lightning as L


def is_dry_run(trainer: L.Trainer) -> bool:
    """Whether a few batches are tried (`fast_dev_run`), which leaves the run's folder alone."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
