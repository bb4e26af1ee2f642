"""Parts of a large file, which several processes read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part of a tar or Parquet file.

    Attributes:
        start: Its first byte in a tar, or its first row group in a Parquet file.
        stop: The byte or row group behind it; None for the end of a tar, whatever comes there.
        size: Bytes.
    """

    start: int
    stop: int | None
    size: int


def cut_at_bytes(
    starts: Iterable[tuple[int, int]], *, end: tuple[int | None, int], bytes_per_part: int
) -> Iterator[FilePart]:
    """Yield the parts of a file, each of which has at least so many bytes, but for the last.

    Args:
        starts: Where a part may start, in order: its number (a byte or a row group) and the byte.
        end: Number and byte behind the last part.
        bytes_per_part: Bytes of a part.
    """
    first: tuple[int, int] | None = None
    for number, byte in starts:
        if first is None:
            first = number, byte
        elif byte - first[1] >= bytes_per_part:
            yield FilePart(first[0], number, byte - first[1])
            first = number, byte
    if first is not None:
        yield FilePart(first[0], end[0], end[1] - first[1])
