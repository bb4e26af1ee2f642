"""Pictures of a prepared folder by key, read from where they lie in the media shards."""

from __future__ import annotations

import json
import os
import sqlite3
from functools import partial
from pathlib import Path

from data_prep.collection import MediaFile
from lightning_omni.data.shard_index import key_of, members, read_index
from lightning_omni.data.shards import shard_paths
from lightning_omni.errors import OmniError

_NAME = 100  # bytes of a tar header that hold the name


class PictureTable:
    """Finds the pictures of a split; the table of their keys is on disk.

    Args:
        data: Prepared folder.
        split: Split.
        path: File of the table, which does not exist.

    Raises:
        OmniError: If a shard is damaged.
    """

    def __init__(self, data: Path, split: str, path: Path) -> None:
        self._shards = shard_paths(data / "media", "image", split)
        self._table = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
            self._table.execute(f"PRAGMA {setting}")
        self._table.execute(
            "CREATE TABLE pictures (key PRIMARY KEY, shard, start, size, checksum) WITHOUT ROWID"
        )
        self._table.execute("BEGIN")  # one transaction to the end, so nothing waits for the disk
        for number, shard in enumerate(self._shards):
            self._table.executemany(
                "INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?, ?)",
                ((key, number, *row) for key, row in _rows(shard)),
            )

    def find(self, key: str) -> MediaFile | None:
        """Return a picture with the facts stored beside it; None if the split has none."""
        found = self._table.execute(
            "SELECT shard, start, size, checksum FROM pictures WHERE key = ?", (key,)
        ).fetchone()
        if found is None:
            return None
        shard, start, size, checksum = found
        path = self._shards[shard]
        _, files = members(_read(path, start, size), path, checksum=checksum)
        extension = next((name for name in files if name != "json"), None)
        if extension is None:
            raise OmniError(f"'{path}' holds no medium for key '{key}'; prepare the data again")
        info = json.loads(files.get("json", b"{}"))
        return MediaFile(key, "image", extension, info, partial(files.__getitem__, extension))

    def close(self) -> None:
        """Close the table."""
        self._table.close()


def keys_of(shard: Path) -> list[str]:
    """Return the keys of a shard without reading its items.

    Raises:
        OmniError: If the shard is damaged.
    """
    return [key for key, _ in _rows(shard)]


def _rows(shard: Path) -> list[tuple[str, tuple[int, int, int]]]:
    """Return key, first byte, number of bytes and checksum of each item of a shard."""
    index = read_index(shard)
    ranges = zip(
        index.offsets.tolist(), index.sizes.tolist(), index.checksums.tolist(), strict=True
    )
    with shard.open("rb") as file:
        return [(_key_at(file.fileno(), row[0], shard), row) for row in ranges]


def _key_at(file: int, start: int, shard: Path) -> str:
    name = os.pread(file, _NAME, start).split(b"\0", 1)[0].decode("utf-8", "replace")
    return key_of(name, shard)[0]


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)
