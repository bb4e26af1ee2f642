"""Evaluate the exported model when training ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lightning_omni.callbacks.dry_run import is_dry_run
from lightning_omni.data.omni_data import OmniData
from lightning_omni.data.shards import read_samples, shard_paths
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.command import evaluate, load_recognizer_if_needed
from lightning_omni.evaluation.emojiworld.metadata import is_scene
from lightning_omni.pretrained import CONFIG_FILE
from lightning_omni.tasks import task_named

log = logging.getLogger(__name__)


class EvaluateStage(L.Callback):
    """Evaluates the run's folder `export` into the folder `eval` beside it, after the export.

    Primary metrics are logged as `eval/<task>_<split>/<metric>`. Whether the speech recognizer is
    installed is checked before training.

    Args:
        splits: test splits.
        limit: examples per task and split.
        speech_limit: examples per task and split where answers are transcribed by a recognizer.
        gallery: examples per task whose media are kept as files.
        seed: seed of the choice of examples, of sampling and of confidence intervals.
        tasks: tasks to evaluate; None takes those of the stage that have a scorer.
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
        """Fail now rather than after hours if the recognizer or the examples are missing."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, OmniData) and trainer.is_global_zero and not is_dry_run(trainer):
            tasks = self._tasks_to_evaluate(data)
            load_recognizer_if_needed(tasks)
            check_examples(data.data, tasks, self.splits)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate on the first process."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if is_dry_run(trainer) or not (
            trainer.is_global_zero and isinstance(data, OmniData) and self._tasks_to_evaluate(data)
        ):
            return
        root = Path(trainer.default_root_dir)
        if not (root / "export" / CONFIG_FILE).is_file():
            raise OmniError(
                f"nothing to evaluate in '{root / 'export'}'; keep export in run_defaults, or list "
                "ExportOmni before EvaluateStage in trainer.callbacks"
            )
        used = trainer.strategy.root_device
        results = evaluate(
            model=root / "export",
            data=str(data.data),
            out=root / "eval",
            tasks=self._tasks_to_evaluate(data),
            splits=self.splits,
            limit=self.limit,
            speech_limit=self.speech_limit,
            seed=self.seed,
            gallery=self.gallery,
            continuous_speech=data.continuous_speech,
            device=str(used) if used.type == "cuda" else "cpu",
        )
        values = primary_metric_values(results["rows"])
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _tasks_to_evaluate(self, data: OmniData) -> list[str]:
        return self.tasks or [task for task in data.tasks if task_named(task).scoring is not None]


def check_examples(data: Location, tasks: Sequence[str], splits: Sequence[str]) -> None:
    """Check that there is something to evaluate, and what scores it.

    Raises:
        OmniError: If no task has any of the splits, or pictures are to be scored and the training
            data show no scenes of EmojiWorld, whose classifier scores them.
    """
    folder = data / "tasks"
    if tasks and not any(shard_paths(folder, task, split) for task in tasks for split in splits):
        raise OmniError(
            f"'{data}' has no samples of {', '.join(tasks)} in {', '.join(splits)} to evaluate "
            "after training; prepare one (prep-data --split), or take EvaluateStage out of "
            "trainer.callbacks"
        )
    drawn = [task for task in tasks if "image" in task_named(task).outputs]
    first = [s for t in ("t2i", "caption") for s in read_samples(folder, t, "train", limit=100)]
    if drawn and not any(map(is_scene, first)):
        raise OmniError(
            f"pictures of {', '.join(drawn)} are scored by a classifier of EmojiWorld's scenes, of "
            f"which '{data}' shows none; give EvaluateStage the tasks that it shall evaluate, or "
            "take it out of trainer.callbacks"
        )


def primary_metric_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the primary metric of each task and split as `eval/<task>_<split>/<metric>`."""
    return {
        f"eval/{r['task']}_{r['split']}/{r['metric']}": r["value"]
        for r in rows
        if r["is_primary"] and r["slice"] is None
    }
