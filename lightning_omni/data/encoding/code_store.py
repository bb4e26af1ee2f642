"""Code stores: the codes of a media shard in one file.

A store holds the arrays of its media one after another, then a row for each: digest of its name,
offset and length in bytes, and at the end the number of rows and the width of an array's rows.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lightning_omni.errors import OmniError

Array = NDArray[Any]
_ROW = np.dtype([("digest", "S16"), ("offset", "<i8"), ("size", "<i8")])
_END = struct.Struct("<qq8s")
_MAGIC = b"codes\0\0\1"


def medium_digest(stream: str, key: str) -> bytes:
    """Return the 16 bytes by which a medium of a stream is found."""
    return hashlib.sha256(f"{stream}/{key}".encode()).digest()[:16]


def write_code_store(file: BinaryIO, media: Iterable[tuple[bytes, Array]]) -> int:
    """Write arrays as they come, then where they lie; return their number.

    Args:
        file: File to write.
        media: Digest and array of each medium; all arrays have the same type and, if they have two
            dimensions, the same width.
    """
    rows, offset, width = [], 0, 0
    for digest, array in media:
        raw = np.ascontiguousarray(array).tobytes()
        file.write(raw)
        rows.append((digest, offset, len(raw)))
        offset += len(raw)
        width = array.shape[1] if array.ndim > 1 else 0
    # as bytes: numpy's strings would drop the zeros at a digest's end
    file.write(b"".join(digest + struct.pack("<qq", start, size) for digest, start, size in rows))
    file.write(_END.pack(len(rows), width, _MAGIC))
    return len(rows)


def read_footer(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Return the number of rows and the width of a store."""
    size = os.fstat(file.fileno()).st_size
    end = os.pread(file.fileno(), _END.size, max(0, size - _END.size))
    if len(end) == _END.size:
        count, width, magic = _END.unpack(end)
        if magic == _MAGIC:
            return count, width
    raise OmniError(f"'{path}' is damaged; delete it and encode again")


def read_entries(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yield digest, offset and bytes of each medium in a store.

    Raises:
        OmniError: If the store is damaged.
    """
    with path.open("rb") as file:
        count, _ = read_footer(file, path)
        file.seek(-_END.size - count * _ROW.itemsize, os.SEEK_END)
        rows = file.read(count * _ROW.itemsize)
    for start in range(0, len(rows), _ROW.itemsize):
        offset, size = struct.unpack_from("<qq", rows, start + 16)
        yield rows[start : start + 16], offset, size
