"""Codes of a media shard in one file, and where the codes of each medium lie.

A store holds the arrays of its media one after another, then a row for each: digest of its name,
offset and length in bytes, and at the end the number of rows and the width of an array's rows.
`MediaIndex` finds a medium in the stores of all media shards: a table on disk, by digest.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lightning_omni.data.encoding.tables import new_table, open_table
from lightning_omni.errors import OmniError

Array = NDArray[Any]
_ROW = np.dtype([("digest", "S16"), ("offset", "<i8"), ("size", "<i8")])
_END = struct.Struct("<qq8s")
_MAGIC = b"codes\0\0\1"
_OPEN_STORES = 32
_TABLE = "CREATE TABLE media (digest BLOB PRIMARY KEY, store INT, start INT, size INT)"


def digest_of(stream: str, key: str) -> bytes:
    """Return the 16 bytes by which a medium of a stream is found."""
    return hashlib.sha256(f"{stream}/{key}".encode()).digest()[:16]


def write_store(file: BinaryIO, media: Iterable[tuple[bytes, Array]]) -> int:
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


def _read_end(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Return the number of rows and the width of a store."""
    size = os.fstat(file.fileno()).st_size
    end = os.pread(file.fileno(), _END.size, max(0, size - _END.size))
    if len(end) == _END.size:
        count, width, magic = _END.unpack(end)
        if magic == _MAGIC:
            return count, width
    raise OmniError(f"'{path}' is damaged; delete it and encode again")


def read_rows(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yield digest, offset and bytes of each medium in a store.

    Raises:
        OmniError: If the store is damaged.
    """
    with path.open("rb") as file:
        count, _ = _read_end(file, path)
        file.seek(-_END.size - count * _ROW.itemsize, os.SEEK_END)
        rows = file.read(count * _ROW.itemsize)
    for start in range(0, len(rows), _ROW.itemsize):
        offset, size = struct.unpack_from("<qq", rows, start + 16)
        yield rows[start : start + 16], offset, size


def write_media_index(path: Path, stores: Sequence[Path]) -> int:
    """Write the table of the media in stores; of equal names, the last counts.

    Args:
        path: File to write.
        stores: Stores, which later calls number in this order.
    """
    with new_table(path) as table:
        table.execute(f"{_TABLE} WITHOUT ROWID")
        for number, store in enumerate(stores):
            rows = ((digest, number, start, size) for digest, start, size in read_rows(store))
            table.executemany("INSERT OR REPLACE INTO media VALUES (?, ?, ?, ?)", sorted(rows))
            table.commit()
        (count,) = table.execute("SELECT count(*) FROM media").fetchone()
    return int(count)


class MediaIndex:
    """Finds the codes of media on disk; at most `_OPEN_STORES` files are open.

    Args:
        path: Table written by `write_media_index`.
        stores: The stores in the same order.
    """

    def __init__(self, path: Path, stores: Sequence[Path]) -> None:
        self.table = open_table(path)
        self.stores = stores
        self.files: OrderedDict[int, tuple[BinaryIO, int]] = OrderedDict()

    def find(self, digest: bytes, dtype: Any) -> Array | None:
        """Return a medium's array, of that type; None if there is no such medium."""
        query = "SELECT store, start, size FROM media WHERE digest = ?"
        found = self.table.execute(query, (digest,)).fetchone()
        if found is None:
            return None
        number, start, size = found
        file, width = self._open(number)
        array = np.frombuffer(bytearray(os.pread(file.fileno(), size, start)), dtype=dtype)
        return array.reshape(-1, width) if width else array

    def _open(self, number: int) -> tuple[BinaryIO, int]:
        if number not in self.files:
            if len(self.files) == _OPEN_STORES:
                self.files.popitem(last=False)[1][0].close()
            path = self.stores[number]
            file = path.open("rb")
            self.files[number] = file, _read_end(file, path)[1]
        self.files.move_to_end(number)
        return self.files[number]

    def close(self) -> None:
        """Close all files."""
        self.table.close()
        while self.files:
            self.files.popitem()[1][0].close()
