"""A table on disk that only this process uses and nobody needs after it."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def create_private_table(path: Path, columns: str) -> sqlite3.Connection:
    """Create a table in a new file, within one transaction that never ends.

    So no row waits for the disk, and a process that is killed leaves a file without use.

    Args:
        path: File of the table, which does not exist.
        columns: Name and columns of the table in SQL, with a primary key.
    """
    table = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
        table.execute(f"PRAGMA {setting}")
    table.execute(f"CREATE TABLE {columns} WITHOUT ROWID")
    table.execute("BEGIN")
    return table
