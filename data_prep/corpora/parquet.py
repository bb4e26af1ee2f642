"""Reader of Parquet files, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from data_prep.corpora.entries import (
    Entry,
    UnusableEntry,
    UsableEntry,
    estimate_lost_entries,
    make_entry,
)
from data_prep.corpora.file_parts import FilePart, cut_at_bytes
from data_prep.corpora.source_files import source_files
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_ROWS = 32
_READ_AT_ONCE = 1 << 20
PARQUET_SUFFIXES = (".parquet",)

Row = dict[str, Any]


def parquet_entries(
    source: Location,
    choose: Callable[[Sequence[str]], list[str]],
    make: Callable[[str, Row], UsableEntry],
    part: FilePart | None = None,
) -> Iterator[Entry]:
    """Yield an entry for each row of a Parquet file, or of the files below a folder.

    A damaged file gives its rows up to the damage, and the rest counts as unusable.

    Args:
        source: Parquet file or a folder of them.
        choose: Returns the columns to read of those that a file has.
        make: Makes an entry of its origin and the row.
        part: Part of the file to read, see `parquet_parts`; None for all of it.

    Raises:
        OmniError: If pyarrow is not installed, there are no files, or a column is missing.
    """
    for origin, row in parquet_rows(source, choose, part):
        if isinstance(row, UnusableEntry):
            yield row
        else:
            yield make_entry(origin, partial(make, origin, row))


def parquet_entries_with_files(
    source: Location,
    folder: Location | None,
    choose: Callable[[Sequence[str]], list[str]],
    make: Callable[[Location, str, Row], UsableEntry],
    part: FilePart | None = None,
) -> Iterator[Entry]:
    """Yield an entry for each row, whose media may be files beside the Parquet files.

    Args:
        source: Parquet file or a folder of them.
        folder: Folder to which the paths of media are relative; None for that of the Parquet files.
        choose: Returns the columns to read of those that a file has.
        make: Makes an entry of this folder, its origin and the row; see `read_media_cell`.
        part: Part of the file to read, see `parquet_parts`; None for all of it.

    Raises:
        OmniError: As `parquet_entries` does.
    """
    folder = folder or (source if source.is_dir() else source.parent)
    return parquet_entries(source, choose, partial(make, folder), part)


def parquet_rows(
    source: Location,
    choose: Callable[[Sequence[str]], list[str]],
    part: FilePart | None = None,
) -> Iterator[tuple[str, Row | UnusableEntry]]:
    """Yield the origin and the row, or what is damaged; see `parquet_entries`."""
    arrow_error = _arrow_error()
    for path in source_files(source, PARQUET_SUFFIXES):
        number, total = 0, 0
        try:
            with _open_parquet(path) as file:
                groups = range(*(part.start, part.stop) if part else (file.num_row_groups,))
                number = _count_rows(file, range(groups.start))
                total = number + _count_rows(file, groups)
                columns = _check_chosen_columns(choose, file.schema_arrow.names, path)
                for batch in file.iter_batches(_ROWS, row_groups=groups, columns=columns):
                    for row in batch.to_pylist():
                        yield f"{path}[{number}]", row
                        number += 1
        except (arrow_error, OSError) as error:
            lost = total - number if total else estimate_lost_entries(path.stat().st_size)
            reason = f"not readable Parquet after {number} rows ({error}); copy the file again"
            yield str(path), UnusableEntry(str(path), reason, lost)


def parquet_parts(path: Location, bytes_per_part: int) -> list[FilePart]:
    """Return the parts of a Parquet file, whole row groups; none if it is read as a whole.

    Args:
        path: The file.
        bytes_per_part: Least number of bytes of a part, but for the last.

    Raises:
        OmniError: If pyarrow is not installed.
    """
    if path.stat().st_size <= bytes_per_part:
        return []
    arrow_error = _arrow_error()
    try:
        with _open_parquet(path) as file:
            sizes = [_row_group_bytes(file, n) for n in range(file.num_row_groups)]
    except (arrow_error, OSError):
        return []  # who reads the file tells of it
    *starts, end = enumerate(accumulate(sizes, initial=0))
    return list(cut_at_bytes(starts, end=end, bytes_per_part=bytes_per_part))


def _arrow_error() -> type[Exception]:
    """Return the error of damaged files.

    Raises:
        OmniError: If pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise OmniError(
            "Parquet needs the parquet extra; pip install 'lightning-omni[parquet]'"
        ) from error
    error_type: type[Exception] = ArrowException
    return error_type


def _open_parquet(path: Location) -> ParquetFile:
    from pyarrow.parquet import ParquetFile

    opened = path.open("rb") if isinstance(path, Url) else path
    return ParquetFile(opened, buffer_size=_READ_AT_ONCE)


def _row_group_bytes(file: ParquetFile, number: int) -> int:
    """Return the bytes of a row group in the file."""
    group = file.metadata.row_group(number)
    return sum(group.column(n).total_compressed_size for n in range(group.num_columns))


def _count_rows(file: ParquetFile, groups: Iterable[int]) -> int:
    return sum(file.metadata.row_group(n).num_rows for n in groups)


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
