"""Which files of a folder are checkpoints that a `ModelCheckpoint` wrote, and what kills left."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_omni.modules.checkpoint_file import Save, checksum_file, read_saves
from lightning_omni.modules.checkpoint_folder import (
    finish_publication,
    is_checkpoint_folder,
    read_folder_save,
    remove,
)

_UNFINISHED = re.compile(r"\.(.+\.ckpt)(?:\.sha256)?\.(?:partial|old|deleted)")
_CHECKSUM = ".ckpt.sha256"
_FIELD = re.compile(r"(\{[^{}]*\})")
_STEP = re.compile(r"step=(\d+)")


class Kept(NamedTuple):
    """What a run knows when it goes on.

    Attributes:
        paths: Checkpoints that it still needs.
        begun: When the run was begun; empty if that is not known.
        step: Step at which it goes on.
    """

    paths: set[Path]
    begun: str
    step: int


class CheckpointNames:
    """Names of the checkpoints that a callback writes into its folder.

    Args:
        keeper: Callback whose folder is known, as it is behind its `setup`.
    """

    def __init__(self, keeper: ModelCheckpoint) -> None:
        assert keeper.dirpath is not None  # noqa: S101
        self.folder, self.keeps_all = Path(keeper.dirpath), keeper.save_top_k == -1
        self._last = _pattern_of(keeper.CHECKPOINT_NAME_LAST, keeper.auto_insert_metric_name)
        self._step = _pattern_of(
            keeper.filename or "{epoch}-{step}", keeper.auto_insert_metric_name
        )

    def is_ours(self, path: Path) -> bool:
        """Whether the callback writes such a name."""
        return bool(self._last.fullmatch(path.name) or self._step.fullmatch(path.name))

    def list_checkpoints(self) -> list[Path]:
        """Return the checkpoints in the folder, whole or not."""
        if not self.folder.is_dir():
            return []
        for path in self.folder.iterdir():
            if (found := _UNFINISHED.fullmatch(path.name)) and path.is_dir():
                finish_publication(path.with_name(found[1]))
        return sorted(path for path in self.folder.iterdir() if self.is_ours(path))

    def list_leftovers(self) -> list[Path]:
        """Return what killed saves left that is no checkpoint, and checksums of none."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else []:
            unfinished = _UNFINISHED.fullmatch(path.name)
            if unfinished and self.is_ours(path.with_name(unfinished[1])):
                found.append(path)
            if path.name.endswith(_CHECKSUM):
                checkpoint = path.with_name(path.name.removesuffix(".sha256"))
                if self.is_ours(checkpoint) and not checkpoint.exists():
                    found.append(path)
        return found

    def list_stale(self, kept: Kept) -> list[Path]:
        """Return checkpoints that the run would have deleted if it had not been killed.

        They are of the same run and not behind the step at which it goes on, or torn, as saves of
        earlier versions left them.
        """
        needed = {path.resolve() for path in kept.paths}
        found = []
        for path in self.list_checkpoints():
            is_named_by_step = bool(self._step.fullmatch(path.name))
            if path.resolve() in needed or (self.keeps_all and is_named_by_step):
                continue
            save = claimed_save(path)
            if save is not None:
                is_stale = save.begun == kept.begun and save.step <= kept.step
            else:
                step = _STEP.search(path.name)
                is_stale = step is not None and int(step[1]) <= kept.step
            if is_stale or is_torn(path):
                found.append(path)
        return found


def claimed_save(path: Path) -> Save | None:
    """Return what is written beside a checkpoint about it; None for one of an earlier version."""
    if path.is_dir():
        return read_folder_save(path)
    return next(iter(read_saves(path)), None)


def is_torn(path: Path) -> bool:
    """Whether a checkpoint was not written to its end, as earlier versions left it."""
    if path.is_dir():
        return not is_checkpoint_folder(path)
    return not checksum_file(path.resolve()).is_file() and not zipfile.is_zipfile(path)


def remove_all(paths: Iterable[Path]) -> None:
    """Delete checkpoints and what is left of some."""
    for path in paths:
        if path.is_dir() and path.name.startswith("."):
            shutil.rmtree(path)
        else:
            remove(path)


def _pattern_of(template: str, inserts_names: bool) -> re.Pattern[str]:
    """Return what matches the names of a template such as `{epoch}-{step}`."""
    parts = []
    for part in _FIELD.split(template.rpartition("/")[2]):
        if not _FIELD.fullmatch(part):
            parts.append(re.escape(part))
            continue
        name = re.escape(part[1:-1].partition(":")[0])
        parts.append(f"{name}=[^=]+" if inserts_names else ".+")
    return re.compile("".join(parts) + r"(-v\d+)?\.ckpt")
