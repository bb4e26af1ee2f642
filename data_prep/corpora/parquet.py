"""Reader of Parquet files, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from data_prep.corpora.entries import (
    Entry,
    UnusableEntry,
    UsableEntry,
    estimate_lost_entries,
    make_entry,
)
from data_prep.corpora.source_files import source_files
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError

_ROWS = 32
_READ_AT_ONCE = 1 << 20
PARQUET_SUFFIXES = (".parquet",)

Row = dict[str, Any]


def parquet_entries(
    source: Location,
    choose: Callable[[Sequence[str]], list[str]],
    make: Callable[[str, Row], UsableEntry],
) -> Iterator[Entry]:
    """Yield an entry for each row of a Parquet file, or of the files below a folder.

    A damaged file gives its rows up to the damage, and the rest counts as unusable.

    Args:
        source: Parquet file or a folder of them.
        choose: Returns the columns to read of those that a file has.
        make: Makes an entry of its origin and the row.

    Raises:
        OmniError: If pyarrow is not installed, there are no files, or a column is missing.
    """
    for origin, row in parquet_rows(source, choose):
        if isinstance(row, UnusableEntry):
            yield row
        else:
            yield make_entry(origin, partial(make, origin, row))


def parquet_rows(
    source: Location, choose: Callable[[Sequence[str]], list[str]]
) -> Iterator[tuple[str, Row | UnusableEntry]]:
    """Yield the origin and the row, or what is damaged; see `parquet_entries`."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise OmniError(
            "Parquet needs the parquet extra; pip install 'lightning-omni[parquet]'"
        ) from error
    for path in source_files(source, PARQUET_SUFFIXES):
        number, total = 0, 0
        try:
            opened = path.open("rb") if isinstance(path, Url) else path
            with ParquetFile(opened, buffer_size=_READ_AT_ONCE) as file:
                total = file.metadata.num_rows
                columns = _check_chosen_columns(choose, file.schema_arrow.names, path)
                for batch in file.iter_batches(_ROWS, columns=columns):
                    for row in batch.to_pylist():
                        yield f"{path}[{number}]", row
                        number += 1
        except (ArrowException, OSError) as error:
            lost = total - number if total else estimate_lost_entries(path.stat().st_size)
            reason = f"not readable Parquet after {number} rows ({error}); copy the file again"
            yield str(path), UnusableEntry(str(path), reason, lost)


def _check_chosen_columns(
    choose: Callable[[Sequence[str]], list[str]], names: list[str], path: Location
) -> list[str]:
    try:
        return choose(names)
    except OmniError as error:
        raise OmniError(f"'{path}': {error}") from error


def first_present_column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the first wanted column that a file has."""
    return next((name for name in wanted if name in names), None)


def required_column(names: Sequence[str], wanted: Sequence[str], content: str) -> str:
    """Return the first wanted column that a file has.

    Raises:
        OmniError: If it has none.
    """
    found = first_present_column(names, wanted)
    if found is None:
        raise OmniError(
            f"no column of {content} ({', '.join(wanted)}); the file has {', '.join(names)}"
        )
    return found


def read_media_cell(value: Any, folder: Location, origin: str) -> bytes | Location:
    """Return the content of a picture or sound as Hugging Face's `datasets` stores it.

    Args:
        value: A struct of `bytes` and `path`, or the content itself; without bytes the path is
            relative to the folder.
        folder: Folder of the Parquet file.
        origin: File and row.

    Raises:
        OmniError: If there is neither.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes) and content:
        return content
    if isinstance(value, dict) and value.get("path"):
        return folder / str(value["path"])
    raise OmniError(f"'{origin}' has no sound or picture")
