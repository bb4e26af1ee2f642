"""Numbered tar shards that are written as items come, one of them open at a time."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning_omni.data.shard_index import write_index
from lightning_omni.files import file_sha256

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Manifest entry of a shard.

    Attributes:
        path: Path relative to the data folder.
        kind: Task, or modality of media shards.
        split: Split.
        samples: Number of samples or media files.
        bytes: Size of the tar in bytes.
        sha256: Checksum of the tar.
    """

    path: str
    kind: str
    split: str
    samples: int
    bytes: int
    sha256: str


def tar_item(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return files `(name, content)` as they lie in a tar, each behind its header."""
    parts = []
    for name, content in files:
        header = tarfile.TarInfo(name)
        header.size = len(content)
        parts += [header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % _BLOCK)]
    return b"".join(parts)


def tar_end(size: int) -> bytes:
    """Return the end of a tar whose items take so many bytes."""
    return bytes(2 * _BLOCK + -(size + 2 * _BLOCK) % tarfile.RECORDSIZE)


class ShardStream:
    """Writes items to the shards `FOLDER/KIND-SPLIT-NNNNNN.tar`, each with its index.

    Args:
        out: Data folder.
        folder: Folder of the shards in it: `media` or `tasks`.
        kind: Task, or modality of media shards.
        split: Split.
        limit: Number of items per shard.
    """

    def __init__(self, out: Path, folder: str, kind: str, split: str, *, limit: int) -> None:
        self.shards: list[ShardEntry] = []
        self._out, self._kind, self._split, self._limit = out, kind, split, limit
        self._stem = f"{folder}/{kind}-{split}"
        self._tar: IO[bytes] | None = None
        self._count = 0

    def add_item(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write an item, its files `(name, content)`, to the open shard."""
        if self._tar is None:
            path = self._out / self._shard_name()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._tar = path.open("wb")
        self._tar.write(tar_item(files))
        self._count += 1
        if self._count == self._limit:
            self.close()

    def close(self) -> None:
        """Finish the open shard, if there is one."""
        if self._tar is None:
            return
        self._tar.write(tar_end(self._tar.tell()))
        self._tar.close()
        path = self._out / self._shard_name()
        write_index(path)
        size, checksum = path.stat().st_size, file_sha256(path)
        shard = ShardEntry(self._shard_name(), self._kind, self._split, self._count, size, checksum)
        self.shards.append(shard)
        self._tar, self._count = None, 0

    def abandon(self) -> None:
        """Close the open shard, which stays unfinished."""
        if self._tar is not None:
            self._tar.close()

    def _shard_name(self) -> str:
        return f"{self._stem}-{len(self.shards):06d}.tar"
