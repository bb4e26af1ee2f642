"""Write a run's settings beside its final metrics, for TensorBoard's page "HParams"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from lightning_omni.callbacks.run_record import record_of_trainer
from lightning_omni.modalities import MODALITIES
from lightning_omni.tasks import TASKS

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

METRICS = (
    "val/loss",
    *(f"val_{kind}/{m.name}" for kind in ("nelbo", "loss_unweighted", "acc") for m in MODALITIES),
    "tokenizer/image/psnr_db",
    "tokenizer/image/ssim",
    "tokenizer/image/usage",
    "tokenizer/speech/mel_l1",
    "tokenizer/speech/usage_q0",
    *(f"eval/{t.name}_test_iid/{t.scoring.metric}" for t in TASKS if t.scoring is not None),
    *(f"val_{kind}/{t.name}" for kind in ("loss_task", "acc_task") for t in TASKS),
)
"""Columns of the page. They are the same in all runs, as TensorBoard reads those of one run; what a
run did not log stays empty."""

Value = bool | int | float | str


def write_hyper_parameters(trainer: L.Trainer) -> None:
    """Write the recipe's settings, and that their results are the last values of `METRICS`.

    On the first process only. A run without a recipe, or without TensorBoard, writes nothing.
    """
    loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
    if not loggers or not trainer.is_global_zero:
        return
    settings = settings_of_run(trainer)
    if settings:
        settings |= computation_of_run(trainer)
    for logger in loggers if settings else []:
        # the second argument names the metrics; their values are those that were logged
        for summary in hparams(settings, dict.fromkeys(METRICS, 0.0)):  # type: ignore[no-untyped-call]
            logger.experiment.file_writer.add_summary(summary)


def settings_of_run(trainer: L.Trainer) -> dict[str, Value]:
    """Return the settings of the recipe as `model.optimizer.lr`; empty without a recipe."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SaveConfigCallback):
            found = _flatten_settings(callback.config.as_dict(), "")
            return {name: value for name, value in found if name.startswith(_KEPT)}
    return {}


def computation_of_run(trainer: L.Trainer) -> dict[str, Value]:
    """Return what the run computed with as `used.device`, `used.precision`, `used.attention`."""
    found = record_of_trainer(trainer)
    names = ("device", "precision", "attention")
    return {f"used.{name}": str(found[name]) for name in names if name in found}


def _flatten_settings(value: Any, name: str) -> Iterator[tuple[str, Value]]:
    """Yield the settings within a value by their dotted names, without `init_args`; None is none.

    The name of a class is a setting, and so is a list.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "class_path":
                yield name, str(inner).rpartition(".")[2]
            else:
                of_class = key == "init_args"
                yield from _flatten_settings(
                    inner, name if of_class else f"{name}.{key}".removeprefix(".")
                )
    elif isinstance(value, bool | int | float | str):
        yield name, value
    elif isinstance(value, list | tuple) and value:
        yield name, ", ".join(map(str, value))
