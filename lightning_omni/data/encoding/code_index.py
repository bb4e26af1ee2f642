"""The code index: a table on disk by which the codes of a medium are found in the code stores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_omni.data.encoding.code_store import Array, read_entries, read_footer
from lightning_omni.files import OpenFiles
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
        self.files = OpenFiles(_OPEN_STORES)
        self.widths: dict[int, int] = {}

    def find(self, digest: bytes, dtype: Any) -> Array | None:
        """Return a medium's array, of that type; None if there is no such medium."""
        query = "SELECT store, start, size FROM media WHERE digest = ?"
        found = self.table.execute(query, (digest,)).fetchone()
        if found is None:
            return None
        number, start, size = found
        width = self._row_width(number)
        content = os.pread(self.files.descriptor(self.stores[number]), size, start)
        array = np.frombuffer(bytearray(content), dtype=dtype)
        return array.reshape(-1, width) if width else array

    def _row_width(self, number: int) -> int:
        """Return the width of a store's arrays; 0 if they have one dimension."""
        if number not in self.widths:
            with self.stores[number].open("rb") as file:
                self.widths[number] = read_footer(file, self.stores[number])[1]
        return self.widths[number]

    def close(self) -> None:
        """Close all files."""
        self.table.close()
        self.files.close()
