"""What a storage client offers, and what it tells about a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file at a URL.

    Attributes:
        size: Bytes.
        version: Entity tag or date of the last change; empty if the server states none.
        has_ranges: Whether the server gives byte ranges.
    """

    size: int
    version: str
    has_ranges: bool = True


class StorageClient(Protocol):
    """Reads files of one scheme. Each call is one attempt."""

    def file_info(self, url: str) -> FileInfo:
        """Return the size and version of a file.

        Raises:
            MissingFileError: If there is none.
            TransientError: If the attempt failed.
            OmniError: If no further attempt would help.
        """

    def read_range(self, url: str, start: int, stop: int, info: FileInfo) -> bytes:
        """Return bytes `[start, stop)`, which are at least one; raises as `file_info` does."""

    def stream_file(self, url: str, info: FileInfo) -> Iterator[bytes]:
        """Yield the whole file in pieces; raises as `file_info` does."""

    def list_names(self, url: str) -> list[str]:
        """Return the names in a folder, those of folders with a slash behind them.

        Raises:
            OmniError: If the server has no listings.
        """
