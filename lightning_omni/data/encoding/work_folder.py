"""The folder of unfinished files within a folder of codes, and how a file leaves it complete."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WORK = "encoding"
"""Folder inside the folder of codes that holds what is needed until all is finished."""


@contextmanager
def write_when_complete(path: Path, folder: Path) -> Iterator[Path]:
    """Give a path to write that takes its name, on the disk, when it is complete.

    Args:
        path: File to be written.
        folder: Folder of codes, whose part for unfinished files is used.
    """
    partial = partial_path(path.name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        sync_to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(name: str, folder: Path) -> Path:
    """Return a path for an unfinished file that no other process has."""
    home = folder / WORK / "partial"
    home.mkdir(parents=True, exist_ok=True)
    return home / f"{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"


def sync_to_disk(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_work_folder(folder: Path) -> None:
    """Remove what led to a complete folder; several processes may do so at once."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
