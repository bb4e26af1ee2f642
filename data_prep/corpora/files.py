"""Readers of the text files of corpora; their errors name file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from lightning_omni.data.storage.locations import Location, Url, location
from lightning_omni.data.storage.urls import is_url, shown
from lightning_omni.errors import OmniError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
_CHECKS_AT_ONCE = 8
_BYTES_PER_ENTRY = 100_000  # of a picture or a clip; to count what a damaged file held


def existing_sources(sources: Sequence[str | Path]) -> list[Location]:
    """Return the files, folders and URLs that sources name, after expanding braces.

    Raises:
        OmniError: If one does not exist, or a range in braces is malformed.
    """
    paths: list[Location] = []
    for source in map(str, sources):
        try:
            is_path = not is_url(source) and Path(source).exists()
            names = [source] if is_path else list(braceexpand(source))
        except (OSError, ValueError) as error:
            raise OmniError(
                f"--source '{shown(source)}' cannot be expanded ({type(error).__name__}); check "
                "its braces"
            ) from None
        found = map(location, names)
        paths += [path.expanduser() if isinstance(path, Path) else path for path in found]
    with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
        for path, exists in zip(paths, pool.map(_exists, paths), strict=True):
            if not exists:
                raise OmniError(f"no file or folder '{path}'; check --source")
    return paths


def _exists(path: Location) -> bool:
    return path.exists()


def files_with_suffix(folder: Location, suffixes: tuple[str, ...]) -> Iterator[Location]:
    """Yield the files below a folder with one of the suffixes, in the order of their names.

    Linked folders are followed; macOS metadata files are skipped. One folder's names
    are in memory at a time.

    Raises:
        OmniError: If the folder does not exist.
    """
    if isinstance(folder, Url):
        yield from _walk_url(folder, suffixes)
        return
    if not folder.is_dir():
        raise OmniError(f"no folder '{folder}'; check --source")
    yield from _walk(folder, suffixes, (folder.resolve(),))


def _walk(folder: Path, suffixes: tuple[str, ...], above: tuple[Path, ...]) -> Iterator[Path]:
    for name in sorted(os.listdir(folder)):
        if name.startswith("._") or name == "__MACOSX":
            continue
        path = folder / name
        if path.is_dir():
            real = path.resolve()
            if real not in above:  # a link to a folder above would not end
                yield from _walk(path, suffixes, (*above, real))
        elif name.lower().endswith(suffixes) and path.is_file():
            yield path


def _walk_url(folder: Url, suffixes: tuple[str, ...]) -> Iterator[Url]:
    for url in folder.iterdir():
        if url.address.endswith("/"):
            yield from _walk_url(url, suffixes)
        elif url.name.lower().endswith(suffixes) and not url.name.startswith("._"):
            yield url


def source_files(source: Location, suffixes: tuple[str, ...]) -> Iterator[Location]:
    """Yield a file, or the files of a folder with one of the suffixes.

    Raises:
        OmniError: If there is none.
    """
    found = False
    for path in [source] if source.is_file() else files_with_suffix(source, suffixes):
        found = True
        yield path
    if not found:
        raise OmniError(f"no {' or '.join(suffixes)} in '{source}'; check --source")


def entries_lost(byte_count: int, known: int = 0, known_bytes: int = 0) -> int:
    """Estimate the number of entries in the unreadable part of a file.

    Args:
        byte_count: Bytes of the unreadable part.
        known: Number of entries in the readable part.
        known_bytes: Bytes of the readable part.
    """
    size = known_bytes / known if known and known_bytes else _BYTES_PER_ENTRY
    return max(1, round(byte_count / size))


def read_sidecar(file: Location, suffix: str) -> str:
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


def read_text(path: Location) -> str:
    """Read a UTF-8 text file, with or without a byte-order mark.

    Raises:
        OmniError: If it is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OmniError(f"'{path}' is not UTF-8 text ({error}); convert it") from error


def json_lines(path: Location) -> Iterator[tuple[int, bytes]]:
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
        plain = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise OmniError(f"{name} is not JSON ({error})") from error
    if not isinstance(plain, dict):
        raise OmniError(f"{name} is not a JSON object")
    return plain


def read_table(path: Location, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield `(line number, row)` of a tab-separated file; see `required_value`.

    Raises:
        OmniError: If the file or a column is missing.
    """
    if not path.is_file():
        raise OmniError(f"no file '{path}'; check --source")
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            names = next(lines, "").rstrip("\r\n").split("\t")
            missing = [c for c in columns if c not in names]
            if missing:
                raise OmniError(f"'{path}' has no column '{missing[0]}'; it has {names}")
            for number, line in enumerate(lines, 2):
                values = line.rstrip("\r\n").split("\t")
                yield number, dict(zip_longest(names, values[: len(names)], fillvalue=""))
    except UnicodeDecodeError as error:
        raise OmniError(f"'{path}' is not UTF-8 text ({error}); convert it") from error


def required_value(row: dict[str, str], column: str, *, name: str) -> str:
    """Return the value of a row in a column.

    Raises:
        OmniError: If it is empty.
    """
    if not row[column]:
        raise OmniError(f"{name} has no value in column '{column}'")
    return row[column]
