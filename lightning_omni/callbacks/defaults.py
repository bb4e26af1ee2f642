"""Logger and callbacks that every run has unless its recipe replaces them or leaves them out."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from lightning.pytorch.callbacks import WeightAveraging

from lightning_omni.callbacks.ema import EMA
from lightning_omni.modules.image_tokenizer import ImageTokenizerModule
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.speech_tokenizer import SpeechTokenizerModule

RunDefault = Literal[
    "logger",
    "checkpoints",
    "progress",
    "throughput",
    "health",
    "record",
    "reconstructions",
    "export",
]
RUN_DEFAULTS: tuple[RunDefault, ...] = get_args(RunDefault)
TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "val_check_interval": 1000,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}
"""Settings of the trainer where ours differ from Lightning's: runs are counted in steps."""
CHECKPOINTS = 20
"""Checkpoints in a run of `max_steps`; only the last is kept."""
_CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
_LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"
_OURS = "lightning_omni.callbacks"

Plain = dict[str, Any]
"""A class and its arguments, as in a recipe."""


def make_run_defaults(
    trainer: Mapping[str, Any], module: str, names: Collection[str] = RUN_DEFAULTS
) -> Plain:
    """Return the logger and callbacks of a run: a recipe's own and the defaults it does not name.

    A callback of a recipe replaces the default of the same class. Defaults come before a recipe's
    own callbacks, as those may need what they export, but behind weight averaging.

    Args:
        trainer: a recipe's `trainer` section; `logger: false` and `enable_checkpointing: false`
            leave a default out.
        module: class path of the model.
        names: defaults that are wanted.

    Returns:
        `logger` and `callbacks`, to be put into `trainer`.
    """
    root = trainer.get("default_root_dir")
    logger = trainer.get("logger")
    if logger is None and root is not None and "logger" in names:
        logger = _class_with_arguments(_LOGGER, save_dir=str(root), name="", version="")
    own = _as_list(trainer.get("callbacks"))
    classes = [_callback_class(callback) for callback in own]
    added = [
        default
        for default in _default_callbacks(trainer, module, names)
        if not any(issubclass(cls, _callback_class(default)) for cls in classes)
    ]
    is_averaging = [issubclass(cls, EMA | WeightAveraging) for cls in classes]
    first = [c for c, is_first in zip(own, is_averaging, strict=True) if is_first]
    last = [c for c, is_first in zip(own, is_averaging, strict=True) if not is_first]
    return {"logger": logger, "callbacks": [*first, *added, *last]}


def _default_callbacks(
    trainer: Mapping[str, Any], module: str, names: Collection[str]
) -> list[Plain]:
    root, kind = trainer.get("default_root_dir"), _import_class(module)
    found = {
        "checkpoints": _class_with_arguments(
            _CHECKPOINT, **_checkpoint_arguments(root, trainer.get("max_steps"))
        ),
        "progress": _class_with_arguments(f"{_OURS}.progress.PlainProgress"),
        "throughput": _class_with_arguments(f"{_OURS}.throughput.Throughput"),
        "health": _class_with_arguments(f"{_OURS}.health.HealthMonitor"),
        "record": _class_with_arguments(f"{_OURS}.run_record.RunRecord"),
    }
    if trainer.get("enable_checkpointing") is False or trainer.get("fast_dev_run"):
        del found["checkpoints"]
    if issubclass(kind, ImageTokenizerModule | SpeechTokenizerModule):
        found["reconstructions"] = _class_with_arguments(f"{_OURS}.reconstructions.Reconstructions")
        found["export"] = _class_with_arguments(f"{_OURS}.export.ExportTokenizer")
    elif issubclass(kind, MaskedDiffusionModule):
        found["export"] = _class_with_arguments(f"{_OURS}.export_omni.ExportOmni")
    if root is None:
        found.pop("export", None)
        del found["record"]
    return [default for name, default in found.items() if name in names]


def _checkpoint_arguments(root: Any, max_steps: int | None) -> Plain:
    """Return arguments of the default checkpoints: the last, in the run's folder."""
    args: Plain = {"save_last": True}
    if root is not None:
        args["dirpath"] = f"{str(root).rstrip('/')}/checkpoints"
    if max_steps is not None and max_steps > 0:
        args["every_n_train_steps"] = max(1, max_steps // CHECKPOINTS)
    return args


def _class_with_arguments(class_path: str, **init_args: Any) -> Plain:
    return {"class_path": class_path, "init_args": init_args}


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _callback_class(callback: Any) -> type:
    """Return the class of a callback or of its description."""
    if isinstance(callback, str):
        return _import_class(callback)
    try:
        return _import_class(callback["class_path"])
    except TypeError:
        return type(callback)


def _import_class(path: str) -> type:
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module or "lightning.pytorch.callbacks"), name)
    assert isinstance(found, type)  # noqa: S101
    return found
