"""Which files of a folder are checkpoints that a `ModelCheckpoint` wrote, and what kills left."""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)

_UNFINISHED = re.compile(r"\.(.+\.ckpt)(?:\.sha256)?\.(?:partial|old|deleted)")
_CHECKSUM = ".ckpt.sha256"
_FIELD = re.compile(r"(\{[^{}]*\})")


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
        return sorted(path for path in self.folder.iterdir() if self.is_ours(path))

    def finish_publications(self) -> None:
        """Give folders their names whose process was killed between two renames.

        Not while another process may be about to do so.
        """
        for path in self.folder.iterdir() if self.folder.is_dir() else []:
            if (found := _UNFINISHED.fullmatch(path.name)) and path.is_dir():
                finish_publication(path.with_name(found[1]))

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

        They are of the same run and not behind the step at which it goes on, or torn.
        """
        needed = {path.resolve() for path in kept.paths}
        found = []
        for path in self.list_checkpoints():
            is_named_by_step = bool(self._step.fullmatch(path.name))
            if path.resolve() in needed or (self.keeps_all and is_named_by_step):
                continue
            save = claimed_save(path)
            is_known = save is not None and save.begun == kept.begun
            if (is_known and save is not None and save.step <= kept.step) or is_torn(path):
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


def remove_all(paths: Iterable[Path]) -> list[Path]:
    """Delete checkpoints and what is left of some; return those that are gone."""
    gone = []
    for path in paths:
        try:
            if path.is_dir() and path.name.startswith("."):
                shutil.rmtree(path)
            else:
                remove(path)
        except OSError as error:
            log.warning("cannot delete '%s' (%s), which is not needed", path, error.strerror)
        else:
            gone.append(path)
    return gone


def _pattern_of(template: str, inserts_names: bool) -> re.Pattern[str]:
    """Return what matches the names of a template such as `{epoch}-{step}`."""
    pieces = _FIELD.split(template)
    for number, piece in enumerate(pieces):
        if "/" in piece and not _FIELD.fullmatch(piece):  # a metric's name may have one, too
            pieces[: number + 1] = [""] * number + [piece.rpartition("/")[2]]
    parts = []
    for part in pieces:
        if not _FIELD.fullmatch(part):
            parts.append(re.escape(part))
            continue
        name = re.escape(part[1:-1].partition(":")[0])
        parts.append(f"{name}=[^=]+" if inserts_names else ".+")
    return re.compile("".join(parts) + r"(-v\d+)?\.ckpt")
