"""The code index: a table on disk by which the codes of a medium are found in the code stores."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lightning_omni.data.encoding.code_store import Array, read_entries, read_footer
from lightning_omni.jobs.sqlite_tables import create_table, open_table

_OPEN_STORES = 32
_TABLE = "CREATE TABLE media (digest BLOB PRIMARY KEY, store INT, start INT, size INT)"


def write_code_index(path: Path, stores: Sequence[Path]) -> int:
    """Write the table of the media in stores; of equal names, the last counts.

    Args:
        path: File to write.
        stores: Stores, which later calls number in this order.
    """
    with create_table(path) as table:
        table.execute(f"{_TABLE} WITHOUT ROWID")
        for number, store in enumerate(stores):
            rows = ((digest, number, start, size) for digest, start, size in read_entries(store))
            table.executemany("INSERT OR REPLACE INTO media VALUES (?, ?, ?, ?)", sorted(rows))
            table.commit()
        (count,) = table.execute("SELECT count(*) FROM media").fetchone()
    return int(count)


class CodeIndex:
    """Finds the codes of media on disk; at most `_OPEN_STORES` files are open.

    Args:
        path: Table written by `write_code_index`.
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
        file, width = self._open_store(number)
        array = np.frombuffer(bytearray(os.pread(file.fileno(), size, start)), dtype=dtype)
        return array.reshape(-1, width) if width else array

    def _open_store(self, number: int) -> tuple[BinaryIO, int]:
        if number not in self.files:
            if len(self.files) == _OPEN_STORES:
                self.files.popitem(last=False)[1][0].close()
            path = self.stores[number]
            file = path.open("rb")
            self.files[number] = file, read_footer(file, path)[1]
        self.files.move_to_end(number)
        return self.files[number]

    def close(self) -> None:
        """Close all files."""
        self.table.close()
        while self.files:
            self.files.popitem()[1][0].close()
