"""The index of a tar shard: where each sample's bytes lie, so that a part of a shard can be read.

`NAME.tar.idx` beside a shard holds one row per sample: the first byte of its first header, the
number of bytes up to the next sample's first header, and the CRC-32 of these bytes. A reader
fetches the range and checks it, and reads nothing else of the shard. A last row holds the size of
the tar and the first 64 bits of its SHA-256, by which the index of another shard is noticed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from lightning_omni.data.storage.locations import Location, read_range
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

SUFFIX = ".idx"
KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_BLOCK = 512
_PLAIN_FILES = (b"0", b"\0")
_CHUNK = 1 << 20
_MAGIC, _HEADER, _ROW = b"\x93NUMPY", 128, 24  # of the array's file, in bytes


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Byte ranges of the samples of a tar, in stored order.

    Attributes:
        offsets: First byte of each sample, Int64[N].
        sizes: Bytes of each sample, headers included, Int64[N].
        checksums: CRC-32 of these bytes, Int64[N].
        tar_bytes: Bytes of the tar.
        digest: First 64 bits of its SHA-256; 0 if the index is of an earlier version.
    """

    offsets: Int64[np.ndarray, " N"]
    sizes: Int64[np.ndarray, " N"]
    checksums: Int64[np.ndarray, " N"]
    tar_bytes: int
    digest: int = 0

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.offsets)


def index_path(tar: Path) -> Path:
    """Return the path of a shard's index."""
    return tar.with_name(tar.name + SUFFIX)


def write_index(tar: Path) -> ShardIndex:
    """Write the index beside a tar, in one step, and return it.

    Raises:
        OmniError: If the tar is damaged, or a key is not a plain name or occurs apart.
    """
    index = build_index(tar)
    target = index_path(tar)
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with partial.open("wb") as file:
        np.save(file, _index_rows(index), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    return index


class StoredIndex:
    """The index of a shard, whose rows are read when they are needed.

    Args:
        tar: The shard.
        index: File of its index; None for the file beside it. Without that, the shard is read
            once to make one.
        tar_bytes: Bytes of the shard; None for those that the file has.
        sha256: Checksum of the shard in the manifest; None if it is not known.

    Raises:
        OmniError: If the index is damaged or belongs to other contents, or the tar is damaged.
    """

    def __init__(
        self,
        tar: Location,
        *,
        index: Location | None = None,
        tar_bytes: int | None = None,
        sha256: str | None = None,
    ) -> None:
        self.path = index or tar.with_name(tar.name + SUFFIX)
        self._made = None if self.path.is_file() else _index_rows(_build_index_with_tarfile(tar))
        self._num_rows = self._read_row_count() if self._made is None else len(self._made)
        last = self._read_rows(self._num_rows - 1, self._num_rows)[0]
        made_of, self.digest = int(last[0]), int(last[1])
        self.tar_bytes = tar.stat().st_size if tar_bytes is None else tar_bytes
        if made_of != self.tar_bytes:
            raise OmniError(
                f"'{tar}' has {self.tar_bytes} bytes but its index was made of {made_of}; prepare "
                "the data again, or delete the index if you changed the shard yourself"
            )
        if sha256 is not None and self.digest and not digest_matches(self.digest, sha256):
            raise OmniError(
                f"'{tar}' is another shard than the one that its manifest lists: it was renamed, "
                "changed or taken from other data; restore it or prepare the data again"
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._num_rows - 1

    def read_part(self, start: int, stop: int) -> ShardIndex:
        """Return the byte ranges of samples `[start, stop)`.

        Raises:
            OmniError: If they are no ranges of the shard.
        """
        offsets, sizes, checksums = self._read_rows(start, min(stop, len(self))).T
        numbers = np.concatenate([offsets, sizes])
        is_inside = ((numbers >= 0) & (numbers <= self.tar_bytes)).all()
        if not is_inside or (offsets + sizes > self.tar_bytes).any():
            raise OmniError(f"'{self.path}' is damaged; delete it, and it is made anew when needed")
        return ShardIndex(offsets, sizes, checksums, self.tar_bytes, self.digest)

    def is_equal(self, made: ShardIndex) -> bool:
        """Tell whether the file holds what an index that was made of the shard says."""
        rows = self._read_rows(0, self._num_rows)
        wanted = _index_rows(made)
        if not self.digest:  # of an earlier version
            wanted[-1, 1] = 0
        return np.array_equal(rows, wanted)

    def _read_row_count(self) -> int:
        """Return the number of rows, after the header of the file was checked."""
        head = read_range(self.path, 0, _HEADER)
        rows, rest = divmod(self.path.stat().st_size - _HEADER, _ROW)
        if head[:6] != _MAGIC or len(head) < _HEADER or b"'<i8'" not in head or rest or rows < 1:
            raise OmniError(f"'{self.path}' is no index of a shard; delete it")
        return rows

    def _read_rows(self, start: int, stop: int) -> NDArray[np.int64]:
        if self._made is not None:
            return self._made[start:stop]
        raw = read_range(self.path, _HEADER + start * _ROW, (stop - start) * _ROW)
        return np.frombuffer(raw, dtype="<i8").reshape(-1, 3)


def read_index(
    tar: Location,
    *,
    index: Location | None = None,
    tar_bytes: int | None = None,
    sha256: str | None = None,
) -> ShardIndex:
    """Return the whole index of a shard; see `StoredIndex`."""
    stored = StoredIndex(tar, index=index, tar_bytes=tar_bytes, sha256=sha256)
    return stored.read_part(0, len(stored))


def build_index(tar: Location) -> ShardIndex:
    """Make the index of a tar by reading it once.

    Raises:
        OmniError: If the tar is damaged, or a key is not a plain name or occurs apart.
        OSError: If it cannot be read, as where another process took it away.
    """
    check_is_file(tar)
    starts: list[tuple[str, int]] = []
    end = 0
    try:
        with tar.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # which tarfile would keep
                first, end = end, member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if not member.isreg():
                    raise OmniError(
                        f"'{tar}' holds '{member.name}', which is not a plain file; prepare the "
                        "data again"
                    )
                key = split_member_name(member.name, tar)[0]
                if not starts or starts[-1][0] != key:
                    starts.append((key, first))
        size = tar.stat().st_size
        if end > size:
            raise tarfile.ReadError(f"damaged after byte {end} of {size}")
        offsets = np.array([first for _, first in starts], dtype=np.int64)
        sizes = np.diff(offsets, append=end)
        with tar.open("rb") as file:
            digest = hashlib.sha256()
            checksums = [_read_crc32(file, int(count), digest) for count in sizes]
            is_ended = is_tar_end(file, digest)
        if not is_ended:
            raise tarfile.ReadError(f"damaged after byte {end} of {size}")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise OmniError(
            f"'{tar}' is not a readable tar ({error}); prepare the data again"
        ) from error
    twice = [key for key, count in Counter(key for key, _ in starts).items() if count > 1]
    if twice:
        raise OmniError(f"'{tar}' holds the key '{twice[0]}' twice; prepare the data again")
    crc32 = np.array(checksums, dtype=np.int64)
    return ShardIndex(offsets, sizes, crc32, size, _leading_bits(digest.digest()))


def check_is_file(tar: Location) -> None:
    """Refuse a folder, or a pipe that would be waited for; a missing file is told by who opens it.

    Raises:
        OmniError: If the shard is no file.
    """
    if isinstance(tar, Path) and tar.exists() and not tar.is_file():
        raise OmniError(f"'{tar}' is no file; restore it or prepare the data again")


def is_tar_end(file: IO[Any], digest: Any = None) -> bool:
    """Tell whether nothing but the end of a tar is left in a file: two blocks of zeros or more.

    Args:
        file: The file, read up to the end of its last member.
        digest: Takes in what is read; None for nothing.
    """
    size = 0
    while chunk := file.read(_CHUNK):
        if chunk.strip(b"\0"):
            return False
        if digest is not None:
            digest.update(chunk)
        size += len(chunk)
    return size >= 2 * _BLOCK


def parse_members(
    block: bytes, tar: Location, *, checksum: int | None = None
) -> tuple[str, dict[str, bytes]]:
    """Return a sample's key and its files by extension.

    Args:
        block: The sample's bytes of a tar.
        tar: The tar, for errors.
        checksum: CRC-32 that the bytes must have; None for any.

    Raises:
        OmniError: If the bytes have another checksum, or are not the files of one key.
    """
    if checksum is not None and zlib.crc32(block) != checksum:
        raise OmniError(
            f"'{tar}' is damaged: a sample's bytes have another checksum than when the shard was "
            "written; prepare the data again"
        )
    key, files, position = "", dict[str, bytes](), 0
    while position < len(block):
        header = block[position : position + _BLOCK]
        if header[156:157] not in _PLAIN_FILES or header[345:346] != b"\0":
            return _parse_members_with_tarfile(block, tar)
        name = header[:100].split(b"\0", 1)[0].decode("utf-8", "replace")
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        key, extension = split_member_name(name, tar)
        position += _BLOCK
        files[extension] = block[position : position + size]
        position += -(-size // _BLOCK) * _BLOCK
    return key, files


def split_member_name(name: str, tar: Location) -> tuple[str, str]:
    """Split a member's name at its first dot into key and extension.

    Raises:
        OmniError: If the key is not a plain name or there is no extension.
    """
    key, _, extension = name.partition(".")
    if not KEY.fullmatch(key) or not extension:
        raise OmniError(
            f"'{tar}' holds the key '{key}' ('{name}'); keys are letters, digits, _ and -, with an "
            "extension behind them"
        )
    return key, extension


def _parse_members_with_tarfile(block: bytes, tar: Location) -> tuple[str, dict[str, bytes]]:
    """Parse a sample whose headers have extensions, such as long names."""
    key, files = "", dict[str, bytes]()
    with tarfile.open(fileobj=io.BytesIO(block), mode="r:") as archive:
        for member in archive:
            key, extension = split_member_name(member.name, tar)
            content = archive.extractfile(member)
            files[extension] = b"" if content is None else content.read()
    return key, files


def _build_index_with_tarfile(tar: Location) -> ShardIndex:
    if isinstance(tar, Url):
        log.warning("'%s' has no index beside it, so all of it is read to make one", tar)
    return build_index(tar)


def _read_crc32(file: IO[Any], size: int, digest: Any) -> int:
    """Read so many bytes; return their CRC-32 and add them to a SHA-256."""
    total = 0
    for start in range(0, size, _CHUNK):
        chunk = file.read(min(_CHUNK, size - start))
        total = zlib.crc32(chunk, total)
        digest.update(chunk)
    return total


def digest_matches(digest: int, sha256: str) -> bool:
    """Tell whether the digest in an index is that of a SHA-256 in hexadecimal."""
    return digest == _leading_bits(bytes.fromhex(sha256))


def _leading_bits(digest: bytes) -> int:
    """Return the first 64 bits of a digest as the signed integer that an index holds."""
    return int.from_bytes(digest[:8], "big", signed=True)


def _index_rows(index: ShardIndex) -> NDArray[np.int64]:
    rows = np.stack([index.offsets, index.sizes, index.checksums], axis=1)
    return np.concatenate([rows, [[index.tar_bytes, index.digest, 0]]]).astype(np.int64)
