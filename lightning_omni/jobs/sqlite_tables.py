"""SQLite tables on disk: written once by one process, then only read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

_MEMORY_KB = 4096


@contextmanager
def create_table(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a table to write: without a journal or locks, as nobody else has it yet."""
    with closing(_connect(path, "nolock=1")) as table:
        table.execute("PRAGMA journal_mode=OFF")
        yield table


def open_table(path: Path) -> sqlite3.Connection:
    """Open a finished table to read."""
    return _connect(path, "immutable=1&mode=ro")


def _connect(path: Path, options: str) -> sqlite3.Connection:
    table = sqlite3.connect(f"file:{quote(str(path))}?{options}", uri=True)
    table.execute(f"PRAGMA cache_size=-{_MEMORY_KB}")
    return table
