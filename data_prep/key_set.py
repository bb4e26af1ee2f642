"""A set of keys on disk, for what does not fit into memory."""

from __future__ import annotations

from pathlib import Path

from data_prep.private_table import create_private_table


class KeySet:
    """A set of keys in a file, which only this process uses and nobody needs after it.

    Args:
        path: File of the set, which does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._table = create_private_table(path, "keys (kind, key, PRIMARY KEY (kind, key))")

    def add_key(self, kind: str, key: str) -> bool:
        """Add a key and return whether it is new."""
        done = self._table.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (kind, key))
        return done.rowcount == 1

    def has_key(self, kind: str, key: str) -> bool:
        """Return whether a key was added."""
        found = self._table.execute("SELECT 1 FROM keys WHERE kind = ? AND key = ?", (kind, key))
        return found.fetchone() is not None

    def close(self) -> None:
        """Close the file."""
        self._table.close()
