"""Read JSON that somebody may have damaged; make room for output before the work begins."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError


def read_json_object(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file, which exists.
        remedy: What the user can do if it is damaged.

    Raises:
        OmniError: If it is not JSON, or holds something else than an object.
    """
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise OmniError(f"'{path}' is not JSON ({error}); {remedy}") from error
    if not isinstance(plain, dict):
        raise OmniError(f"'{path}' holds a JSON {type(plain).__name__}, not an object; {remedy}")
    return plain


def make_folder(folder: Path) -> Path:
    """Make a folder for output, its parents too.

    Raises:
        OmniError: If that cannot be done, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OmniError(
            f"cannot write into '{folder}' ({error.strerror}); choose another place"
        ) from error
    return folder


def make_empty_folder(folder: Path) -> Path:
    """Make a folder that takes a whole result.

    Raises:
        OmniError: If that cannot be done, or it holds something.
    """
    make_folder(folder)
    if any(folder.iterdir()):
        raise OmniError(f"'{folder}' is not empty; choose another place")
    return folder


def make_room_for(file: Path) -> Path:
    """Make the folder of a file to be written.

    Raises:
        OmniError: If that cannot be done, or a folder stands where the file should go.
    """
    if file.is_dir():
        raise OmniError(f"'{file}' is a folder, wanted the name of a file to write")
    make_folder(file.parent)
    return file
