"""Readers of the text files of corpora; their errors name file and line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import zip_longest

from lightning_omni.argument_checks import is_blank
from lightning_omni.data.media import MAX_FILE_BYTES
from lightning_omni.data.storage.locations import Location, read_limited
from lightning_omni.errors import OmniError
from lightning_omni.files import check_file_size


def read_sidecar(file: Location, suffix: str) -> str:
    """Read the file of the same name with another suffix, stripped of white space.

    Raises:
        OmniError: If it is missing or empty.
    """
    path = file.with_suffix(suffix)
    if not path.is_file():
        raise OmniError(f"'{file}' has no '{path.name}' beside it; write its text there")
    content = read_text(path).strip()
    if is_blank(content):
        raise OmniError(f"'{path}' is empty; write the text of '{file.name}' there")
    return content


def read_text(path: Location) -> str:
    """Read a UTF-8 text file, with or without a byte-order mark.

    Raises:
        OmniError: If it is not UTF-8.
    """
    try:
        return read_limited(path, limit=MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OmniError(f"'{path}' is not UTF-8 text ({error}); convert it") from error


def split_lines(text: str) -> list[str]:
    """Return the lines of a text; only LF and CRLF end one, as other ends occur in sentences."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_json_lines(path: Location) -> Iterator[tuple[int, bytes]]:
    """Yield `(line number, line)` of a JSON Lines file, without empty lines.

    Raises:
        OmniError: If the file does not exist.
    """
    if not path.is_file():
        raise OmniError(f"no file '{path}'; check --source")
    for number, line in _read_lines(path):
        if line.strip():
            yield number, line


def _read_lines(path: Location) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers.

    Raises:
        OmniError: If one is larger than a file may be.
    """
    with path.open("rb") as lines:
        read_line = partial(lines.readline, MAX_FILE_BYTES + 1)
        for number, line in enumerate(iter(read_line, b""), 1):
            check_file_size(len(line), MAX_FILE_BYTES, f"{path}:{number}")
            yield number, line


def read_tsv(path: Location, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield `(line number, row)` of a tab-separated file; see `required_value`.

    Raises:
        OmniError: If the file or a column is missing.
    """
    if not path.is_file():
        raise OmniError(f"no file '{path}'; check --source")
    try:
        lines = _read_lines(path)
        names = next(lines, (1, b""))[1].decode("utf-8-sig").rstrip("\r\n").split("\t")
        missing = [c for c in columns if c not in names]
        if missing:
            raise OmniError(f"'{path}' has no column '{missing[0]}'; it has {names}")
        for number, line in lines:
            values = line.decode().rstrip("\r\n").split("\t")
            yield number, dict(zip_longest(names, values[: len(names)], fillvalue=""))
    except UnicodeDecodeError as error:
        raise OmniError(f"'{path}' is not UTF-8 text ({error}); convert it") from error


def required_value(row: dict[str, str], column: str, *, name: str) -> str:
    """Return the value of a row in a column.

    Raises:
        OmniError: If it is empty.
    """
    if is_blank(row[column]):
        raise OmniError(f"{name} has no value in column '{column}'")
    return row[column]
