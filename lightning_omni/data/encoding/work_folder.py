"""The work folder of an encoding, within the folder of codes."""

from __future__ import annotations

import shutil
from pathlib import Path

WORK = "encoding"
"""Folder inside the folder of codes that holds what is needed until all is finished."""


def remove_work_folder(folder: Path) -> None:
    """Remove what led to a complete folder of codes; several processes may do so at once."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
