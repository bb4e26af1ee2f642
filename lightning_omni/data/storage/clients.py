"""What a storage client offers, and the facts of a file that every reader needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file at a URL.

    Attributes:
        size: Bytes.
        version: Entity tag or date of the last change; empty if the server states none.
        has_ranges: Whether the server gives byte ranges.
    """

    size: int
    version: str
    has_ranges: bool = True


class Client(Protocol):
    """Reads files of one scheme. Each call is one attempt."""

    def facts(self, url: str) -> FileFacts:
        """Return the facts of a file.

        Raises:
            MissingFileError: If there is none.
            FaultError: If the attempt failed.
            OmniError: If no further attempt would help.
        """

    def read(self, url: str, start: int, stop: int, facts: FileFacts) -> bytes:
        """Return bytes `[start, stop)`, which are at least one; raises as `facts` does."""

    def stream(self, url: str, facts: FileFacts) -> Iterator[bytes]:
        """Yield the whole file in pieces; raises as `facts` does."""

    def names(self, url: str) -> list[str]:
        """Return the names in a folder, those of folders with a slash behind them.

        Raises:
            OmniError: If the server has no listings.
        """
