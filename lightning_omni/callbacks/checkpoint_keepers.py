"""The callbacks of a run that write checkpoints, and what they know when it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


def find_keepers(trainer: L.Trainer) -> list[ModelCheckpoint]:
    """Return the callbacks that write checkpoints into a folder of this machine."""
    found = [k for k in trainer.checkpoint_callbacks if isinstance(k, ModelCheckpoint)]
    return [k for k in found if k.dirpath is not None and "://" not in str(k.dirpath)]


def adapt_keeper_state(states: dict[str, Any], keeper: ModelCheckpoint, checkpoint: Path) -> bool:
    """Make a saved state one of this callback, in the folder where it is now.

    It may have been saved at another rhythm, which is a part of its key, and the folder may have
    been moved since. The state of another run's folder is dropped.

    Args:
        states: States of all callbacks of the checkpoint, changed in place.
        keeper: Callback of this start.
        checkpoint: Where the checkpoint is.

    Returns:
        Whether there is one, so that the callback knows which checkpoints it keeps.
    """
    if keeper.state_key not in states:
        same = [key for key, state in states.items() if _is_alike(key, state, keeper)]
        if len(same) != 1:
            return False
        states[keeper.state_key] = states.pop(same[0])
    state = states[keeper.state_key]
    before, folder = state.get("dirpath"), str(keeper.dirpath)
    if not before or before == folder:
        return True
    if checkpoint.resolve().parent != Path(folder).resolve():
        del states[keeper.state_key]  # of checkpoints that stay with another run
        return False

    def move(path: Any) -> Any:
        inside = path and Path(str(path)).is_relative_to(before)
        return str(Path(folder, Path(str(path)).relative_to(before))) if inside else path

    state |= {"dirpath": folder, **{name: move(state.get(name, "")) for name in _PATHS}}
    models = state.get("best_k_models") or {}
    state["best_k_models"] = {move(path): score for path, score in models.items()}
    return True


def _is_alike(key: Any, state: Any, keeper: ModelCheckpoint) -> bool:
    is_kind = str(key).startswith(type(keeper).__qualname__) and isinstance(state, dict)
    return is_kind and state.get("monitor") == keeper.monitor


def own_last_checkpoint(keeper: ModelCheckpoint) -> None:
    """Let a callback write over the last checkpoint of its run, and forget what is gone."""
    last = Path(str(keeper.dirpath), f"{keeper.CHECKPOINT_NAME_LAST}{keeper.FILE_EXTENSION}")
    known = keeper.last_model_path
    if "{" not in last.name and keeper.save_last and not (known and Path(known).exists()):
        keeper.last_model_path = str(last)
    keeper.best_k_models = {p: s for p, s in keeper.best_k_models.items() if Path(p).exists()}
    if keeper.kth_best_model_path not in keeper.best_k_models:
        worst = max if keeper.mode == "min" else min
        models = keeper.best_k_models
        keeper.kth_best_model_path = worst(models, key=lambda p: models[p]) if models else ""


def needed_paths(keeper: ModelCheckpoint) -> set[Path]:
    """Return the checkpoints that a callback is going to keep or to delete itself."""
    paths = [keeper.best_model_path, keeper.last_model_path, *keeper.best_k_models]
    return {Path(path) for path in paths if path}
