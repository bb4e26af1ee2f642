"""Blocks of files on the local disk: shared by processes, bounded in size, checked by CRC-32.

A block is a file of its bytes and their checksum. It is written beside its name and renamed, so
that a process that is killed leaves no half block. The bytes of all blocks are noted in one small
file under a lock; a block that does not fit first evicts those that were not used for longest.
"""

from __future__ import annotations

import errno
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lightning_omni.errors import OmniError
from lightning_omni.files import file_lock

log = logging.getLogger(__name__)

FOLDER, GIGABYTES = "LIGHTNING_OMNI_CACHE", "LIGHTNING_OMNI_CACHE_GB"
_DEFAULT_FOLDER, _DEFAULT_GIGABYTES = "~/.cache/lightning_omni", "20"
_PART = ".part"
_PART_EXPIRES_S = 3600.0
_SUM_BYTES = 4
_LOCKS = 256
_EVICT_TO = 0.9
_CHECKED_KEPT = 1 << 16
_FULL = (errno.ENOSPC, errno.EDQUOT)


class BlockCache:
    """Blocks by name in a folder.

    Args:
        folder: Folder of the cache, made when the first block is written.
        limit: Bytes that all blocks may take; 0 keeps none.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._blocks = str(folder / "blocks")
        self.damaged = 0
        self._checked: dict[str, tuple[int, int]] = {}
        self._is_full = False

    def read(self, name: str, start: int, stop: int) -> bytes | None:
        """Return bytes `[start, stop)` of a block; None if it is absent or damaged."""
        path = self._block_path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            if not self._is_intact(path, descriptor):
                self.damaged += 1
                Path(path).unlink(missing_ok=True)
                return None
            found = os.pread(descriptor, stop - start, start)
            with suppress(OSError):  # of another user
                os.utime(path, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
            return found if len(found) == stop - start else None
        finally:
            os.close(descriptor)

    def write(self, name: str, content: bytes) -> bool:
        """Keep a block; return whether there was room.

        Raises:
            OmniError: If the folder cannot be written at all.
        """
        size = len(content) + _SUM_BYTES
        if size > self.limit:
            return False
        try:
            for limit in (self.limit, self.limit // 2):
                try:
                    self._reserve_bytes(size, limit)
                    self._write_block_file(Path(self._block_path(name)), content)
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                else:
                    return True
        except OSError as error:
            raise self._unwritable_error(error) from error
        if not self._is_full:
            self._is_full = True
            log.warning(
                "the disk of the cache '%s' is full; blocks are read from their URLs each time "
                "until there is room; free some, or set %s to another disk",
                self.folder,
                FOLDER,
            )
        return False

    @contextmanager
    def lock_block(self, name: str) -> Iterator[None]:
        """Hold a block's lock, so that one process at a time fetches it."""
        if self.limit == 0:
            yield
            return
        number = zlib.crc32(name.encode()) % _LOCKS
        with self._hold_lock_file(f"locks/{number:02x}"):
            yield

    def _block_path(self, name: str) -> str:
        return f"{self._blocks}/{name[:2]}/{name}"

    def _is_intact(self, path: str, descriptor: int) -> bool:
        """Tell whether a block has its checksum; each is read for that once by a process."""
        facts = os.fstat(descriptor)
        known = (facts.st_ino, facts.st_mtime_ns)
        if self._checked.get(path) == known:
            return True
        raw = os.pread(descriptor, facts.st_size, 0)
        content, stored = raw[:-_SUM_BYTES], raw[-_SUM_BYTES:]
        if _crc32_bytes(content) != stored:
            return False
        if len(self._checked) >= _CHECKED_KEPT:
            self._checked.pop(next(iter(self._checked)))
        self._checked[path] = known
        return True

    def _write_block_file(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}{_PART}")
        try:
            with part.open("wb") as file:
                file.write(content)
                file.write(_crc32_bytes(content))
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def _reserve_bytes(self, size: int, limit: int) -> None:
        """Count a block before it is written, and evict others if all exceed the limit."""
        with self._hold_lock_file("lock"):
            noted = self.folder / "bytes"
            used = _read_number(noted)
            if used is None or used + size > limit:
                used = self._evict_blocks(max(int(limit * _EVICT_TO) - size, 0), limit - size)
            noted.write_text(str(used + size), encoding="utf-8")

    def _evict_blocks(self, wanted: int, most: int) -> int:
        """Delete the blocks used longest ago if all take over `most`; return what is left."""
        blocks = []
        for path in (self.folder / "blocks").glob("*/*"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                blocks.append((facts.st_atime_ns, facts.st_size, path))
        used = sum(size for _, size, _ in blocks)
        target = wanted if used > most else used
        oldest_ns = (time.time() - _PART_EXPIRES_S) * 1e9
        for used_ns, size, path in sorted(blocks):
            is_part = path.suffix == _PART
            if (is_part and used_ns < oldest_ns) or (not is_part and used > target):
                path.unlink(missing_ok=True)
                used -= size
        return used

    def _unwritable_error(self, error: OSError) -> OmniError:
        return OmniError(
            f"cannot write the cache '{self.folder}' ({error.strerror}); set {FOLDER} to a folder "
            f"that can be written, or {GIGABYTES}=0 for none"
        )

    @contextmanager
    def _hold_lock_file(self, name: str) -> Iterator[None]:
        path = self.folder / name
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # on a file system without locks blocks may be fetched twice
                stack.enter_context(file_lock(path, is_needed=False))
            except OSError as error:
                raise self._unwritable_error(error) from error
            yield


def cache_from_environment() -> BlockCache:
    """Return the cache that the environment describes.

    Raises:
        OmniError: If the size is no number.
    """
    folder = Path(os.environ.get(FOLDER) or _DEFAULT_FOLDER).expanduser()
    raw = os.environ.get(GIGABYTES) or _DEFAULT_GIGABYTES
    try:
        limit = int(float(raw) * 1e9)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise OmniError(f"{GIGABYTES} is '{raw}', wanted a number of gigabytes such as 20")
    return BlockCache(folder, limit)


def _crc32_bytes(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_SUM_BYTES, "little")


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
