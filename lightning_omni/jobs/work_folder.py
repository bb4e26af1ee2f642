"""The folder of a job's unfinished files, and how a file leaves it complete.

Nothing here makes the work folder itself: once a process has removed it, others must notice.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_omni.files import sync_to_disk


@contextmanager
def write_when_complete(path: Path, work: Path) -> Iterator[Path]:
    """Give a path to write that takes its name, on the disk, when it is complete.

    Args:
        path: File to be written.
        work: Work folder of the job, which exists.
    """
    partial = partial_path(path.name, work)
    within = [one for one in path.parents if work in one.parents]
    for folder in reversed(within):
        folder.mkdir(exist_ok=True)
    try:
        yield partial
        sync_to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(name: str, work: Path) -> Path:
    """Return a path for an unfinished file that no other process has."""
    home = work / "partial"
    home.mkdir(exist_ok=True)
    return home / f"{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
