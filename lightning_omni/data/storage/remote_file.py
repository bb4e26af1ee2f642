"""A file at a URL as a file object of Python, which libraries read and seek in."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class RemoteFile(io.RawIOBase):
    """A file at a URL, read by block and never written.

    Args:
        read_range: Returns so many bytes of the file from a position on, fewer at its end.
        size: Bytes of the file.
    """

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self.read_range, self.size, self.position = read_range, size, 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from any position."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(base + offset, 0)
        return self.position

    def tell(self) -> int:
        """Return the position."""
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, and return the number of bytes."""
        content = self.read_range(self.position, len(buffer))
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)
