"""Write a run's settings beside its final metrics, for TensorBoard's page "HParams"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from lightning_omni.callbacks.evaluate_stage import EvaluateStage

_OF_TRAINER = (
    "max_steps",
    "precision",
    "devices",
    "num_nodes",
    "strategy",
    "accumulate_grad_batches",
    "gradient_clip_val",
)
_KEPT = ("seed_everything", "data.", "model.", *(f"trainer.{name}" for name in _OF_TRAINER))
_OUTCOMES = re.compile("val/|val_(loss_unweighted|loss_task|acc|acc_task)/|tokenizer/")

Value = bool | int | float | str


def write_hyper_parameters(trainer: L.Trainer) -> None:
    """Write the recipe's settings and the last value of each metric, on the first process only.

    Metrics are those of the last validation, of codebooks and reconstructions, and of
    `EvaluateStage`, under the tags they were logged by; those of mask ratios are left out. A run
    without a recipe, or without TensorBoard, writes nothing.
    """
    loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
    settings = settings_of_run(trainer)
    if not loggers or not settings or not trainer.is_global_zero:
        return
    metrics = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if _OUTCOMES.match(name)
    }
    for callback in _callbacks(trainer):
        if isinstance(callback, EvaluateStage):
            metrics |= callback.latest
    for logger in loggers:
        for summary in hparams(settings, metrics):  # type: ignore[no-untyped-call]
            logger.experiment.file_writer.add_summary(summary)


def settings_of_run(trainer: L.Trainer) -> dict[str, Value]:
    """Return the settings of the recipe as `model.optimizer.lr`; empty without a recipe."""
    for callback in _callbacks(trainer):
        if isinstance(callback, SaveConfigCallback):
            return {
                name: value
                for name, value in _flat(callback.config.as_dict(), "")
                if name.startswith(_KEPT)
            }
    return {}


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    found: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found


def _flat(value: Any, name: str) -> Iterator[tuple[str, Value]]:
    """Yield the settings within a value by their dotted names, without `init_args`; None is none.

    The name of a class is a setting, and so is a list.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "class_path":
                yield name, str(inner).rpartition(".")[2]
            else:
                of_class = key == "init_args"
                yield from _flat(inner, name if of_class else f"{name}.{key}".removeprefix("."))
    elif isinstance(value, bool | int | float | str):
        yield name, value
    elif isinstance(value, list | tuple) and value:
        yield name, ", ".join(map(str, value))
