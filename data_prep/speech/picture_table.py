"""Pictures of a prepared folder by key, read from where they lie in the media shards."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from data_prep.media_file import MediaFile
from data_prep.private_table import create_private_table
from lightning_omni.data.shard_index import parse_members, read_index, split_member_name
from lightning_omni.data.shards import shard_paths
from lightning_omni.data.storage.locations import read_range
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
        columns = "pictures (key PRIMARY KEY, shard, start, size, checksum)"
        self._table = create_private_table(path, columns)
        for number, shard in enumerate(self._shards):
            self._table.executemany(
                "INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?, ?)",
                ((key, number, *row) for key, row in _read_item_ranges(shard)),
            )

    def find_picture(self, key: str) -> MediaFile | None:
        """Return a picture with the facts stored beside it; None if the split has none."""
        found = self._table.execute(
            "SELECT shard, start, size, checksum FROM pictures WHERE key = ?", (key,)
        ).fetchone()
        if found is None:
            return None
        shard, start, size, checksum = found
        path = self._shards[shard]
        _, files = parse_members(read_range(path, start, size), path, checksum=checksum)
        extension = next((name for name in files if name != "json"), None)
        if extension is None:
            raise OmniError(f"'{path}' holds no medium for key '{key}'; prepare the data again")
        info = json.loads(files.get("json", b"{}"))
        return MediaFile(key, "image", extension, info, partial(files.__getitem__, extension))

    def close(self) -> None:
        """Close the table."""
        self._table.close()


def read_shard_keys(shard: Path) -> list[str]:
    """Return the keys of a shard without reading its items.

    Raises:
        OmniError: If the shard is damaged.
    """
    return [key for key, _ in _read_item_ranges(shard)]


def _read_item_ranges(shard: Path) -> list[tuple[str, tuple[int, int, int]]]:
    """Return key, first byte, number of bytes and checksum of each item of a shard."""
    index = read_index(shard)
    ranges = zip(
        index.offsets.tolist(), index.sizes.tolist(), index.checksums.tolist(), strict=True
    )
    with shard.open("rb") as file:
        return [(_read_key_at(file.fileno(), row[0], shard), row) for row in ranges]


def _read_key_at(file: int, start: int, shard: Path) -> str:
    name = os.pread(file, _NAME, start).split(b"\0", 1)[0].decode("utf-8", "replace")
    return split_member_name(name, shard)[0]
