"""End a stage with an evaluation of what it exported."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L

from lightning_omni.data.omni_data import OmniData
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.run import evaluate, load_recognizer
from lightning_omni.pretrained import CONFIG_FILE

log = logging.getLogger(__name__)


class EvaluateStage(L.Callback):
    """Evaluates `export` in the run's folder into `eval` beside it; list it after ExportOmni.

    Each primary number is logged as `eval/<task>_<split>` to
    TensorBoard. That the recognizer is installed is checked before training, not after.

    Args:
        splits: Test splits.
        limit: Cases per task and split.
        speech_limit: The same where the recognizer must listen.
        gallery: Cases kept as files per task.
        seed: Of the choice of cases, of sampling and of intervals.
        tasks: Tasks to test; None takes those of the stage.
    """

    def __init__(
        self,
        splits: list[str],
        limit: int,
        speech_limit: int,
        gallery: int,
        seed: int,
        tasks: list[str] | None = None,
    ) -> None:
        self.splits, self.limit, self.speech_limit = splits, limit, speech_limit
        self.gallery, self.seed, self.tasks = gallery, seed, tasks

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fail now rather than after hours if something needed is missing."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, OmniData) and trainer.is_global_zero:
            load_recognizer(self.tasks or list(data.tasks))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate on the first process."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not isinstance(data, OmniData):
            return
        root = Path(trainer.default_root_dir)
        if not (root / "export" / CONFIG_FILE).is_file():
            raise OmniError(
                f"nothing to evaluate in '{root / 'export'}'; list ExportOmni before EvaluateStage "
                "in trainer.callbacks"
            )
        results = evaluate(
            model=root / "export",
            data=data.data,
            out=root / "eval",
            tasks=self.tasks or list(data.tasks),
            splits=self.splits,
            limit=self.limit,
            speech_limit=self.speech_limit,
            seed=self.seed,
            gallery=self.gallery,
            continuous_speech=data.continuous_speech,
        )
        values = primary_values(results["rows"])
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)


def primary_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Each task's main number per split, `eval/<task>_<split>/<metric>`."""
    return {
        f"eval/{r['task']}_{r['split']}/{r['metric']}": r["value"]
        for r in rows
        if r["is_primary"] and r["slice"] is None
    }
