"""Arrange logged scalars as charts on TensorBoard's page "Custom Scalars"."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

Layout = dict[str, dict[str, list[str | list[str]]]]
"""Category -> title of a chart -> its type and regular expressions of its tags."""


def _lines(*patterns: str) -> list[str | list[str]]:
    return ["Multiline", [f"^{pattern}$" for pattern in patterns]]


_STAGE = "(train|val)"

LAYOUT: Layout = {
    "Loss and accuracy": {
        "Loss": _lines(f"{_STAGE}/loss(_step|_epoch)?"),
        "Negative log-likelihood by modality": _lines(f"{_STAGE}_loss_unweighted/.*"),
        "Negative log-likelihood by task": _lines(f"{_STAGE}_loss_task/.*"),
        "Negative log-likelihood by mask ratio": _lines(f"{_STAGE}_loss_t_[a-z]+/bin[0-9]+"),
        "Accuracy by mask ratio": _lines(f"{_STAGE}_acc_t_[a-z]+/bin[0-9]+"),
    },
    "Optimization": {
        "Learning rate": _lines("optim/lr(_group[0-9]+)?"),
        "Gradient norm before clipping": _lines("optim/grad_norm"),
    },
    "Speed": {
        "Per second": _lines("perf/(useful_)?tokens_per_s", "perf/samples_per_s"),
        "Seconds per step": _lines("perf/(data_wait|compute|forward|backward|update)_s"),
        "Model FLOPs utilization": _lines("perf/mfu"),
        "Peak memory, GB": _lines("perf/peak_gb"),
    },
}
"""Charts of a run; a chart whose tags a run does not log stays empty."""


def write_layout(trainer: L.Trainer) -> None:
    """Write `LAYOUT` to the run's TensorBoard, on the first process only."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            logger.experiment.add_custom_scalars(LAYOUT)
