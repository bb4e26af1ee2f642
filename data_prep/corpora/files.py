"""Readers of the text files of corpora; their errors name file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")


def files_with_suffix(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files below a folder with one of the suffixes, sorted.

    Raises:
        OmniError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise OmniError(f"no folder '{folder}'; check --source")
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())


def read_sidecar(file: Path, suffix: str) -> str:
    """Read the file of the same name with another suffix, stripped of white space.

    Raises:
        OmniError: If it is missing or empty.
    """
    path = file.with_suffix(suffix)
    if not path.is_file():
        raise OmniError(f"'{file}' has no '{path.name}' beside it; write its text there")
    content = read_text(path).strip()
    if not content:
        raise OmniError(f"'{path}' is empty; write the text of '{file.name}' there")
    return content


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        OmniError: If it is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise OmniError(f"'{path}' is not UTF-8 text ({error}); convert it") from error


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield `(line number, line)` of a JSON Lines file, without empty lines; see `json_object`.

    Raises:
        OmniError: If the file does not exist.
    """
    if not path.is_file():
        raise OmniError(f"no file '{path}'; check --source")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


def json_object(line: bytes, *, name: str) -> dict[str, Any]:
    """Parse a line of a JSON Lines file.

    Raises:
        OmniError: If it is not a JSON object.
    """
    try:
        plain = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise OmniError(f"{name} is not JSON ({error})") from error
    if not isinstance(plain, dict):
        raise OmniError(f"{name} is not a JSON object")
    return plain


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield `(line number, row)` of a tab-separated file; see `required_value`.

    Raises:
        OmniError: If the file or a column is missing.
    """
    if not path.is_file():
        raise OmniError(f"no file '{path}'; check --source")
    reader = csv.DictReader(
        io.StringIO(read_text(path), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE, restval=""
    )
    missing = [c for c in columns if c not in (reader.fieldnames or ())]
    if missing:
        raise OmniError(f"'{path}' has no column '{missing[0]}'; it has {reader.fieldnames}")
    yield from enumerate(reader, 2)


def required_value(row: dict[str, str], column: str, *, name: str) -> str:
    """Return the value of a row in a column.

    Raises:
        OmniError: If it is empty.
    """
    if not row[column]:
        raise OmniError(f"{name} has no value in column '{column}'")
    return row[column]
