"""The files at URLs as one process reads them: through clients, retries and the cache."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from lightning_omni.data.storage.block_cache import GIGABYTES, BlockCache, cache_from_environment
from lightning_omni.data.storage.client_protocol import FileInfo, StorageClient
from lightning_omni.data.storage.object_store_client import ObjectStoreClient
from lightning_omni.data.storage.read_counts import ReadCounts
from lightning_omni.data.storage.request_errors import (
    MissingFileError,
    TransientError,
    missing_file_error,
)
from lightning_omni.data.storage.retries import Retrier, RetryPolicy
from lightning_omni.data.storage.url_text import WEB, redact_url, url_scheme
from lightning_omni.data.storage.web_client import WebClient
from lightning_omni.errors import OmniError

BLOCK = 4 << 20
_RECENT, _INFOS_KEPT, _LOCKS = 16, 4096, 64


class UrlReader:
    """Reads files at URLs in blocks.

    Args:
        cache: Blocks on the disk; None for that of the environment.
        policy: Time limits and attempts; None for the usual ones.
    """

    def __init__(self, cache: BlockCache | None = None, policy: RetryPolicy | None = None) -> None:
        self.cache = cache or cache_from_environment()
        self._counts = ReadCounts()
        self._retrier = Retrier(self._counts, policy)
        self._clients: dict[tuple[str, int], StorageClient] = {}
        self._file_infos: OrderedDict[str, FileInfo] = OrderedDict()
        self._info_locks = [threading.Lock() for _ in range(_LOCKS)]
        self._unversioned = itertools.count(time.time_ns())
        self._recent: OrderedDict[str, bytes] = OrderedDict()  # blocks without room on the disk

    @property
    def counts(self) -> ReadCounts:
        """What was fetched so far."""
        damaged, self.cache.damaged = self.cache.damaged, 0
        self.add_count("damaged", damaged)
        return self._counts

    def add_count(self, name: str, by: int = 1) -> None:
        """Add to one of the counts, from any thread."""
        self._retrier.add_count(name, by)

    def file_info(self, url: str, *, anew: bool = False) -> FileInfo:
        """Return the size and version of a file.

        Args:
            url: URL of the file.
            anew: Whether to ask the server even if they are known.

        Raises:
            MissingFileError: If there is no such file.
            OmniError: If the server cannot be reached or refuses.
        """
        known = self._file_infos.get(url)
        if known is not None and not anew:
            return known
        with self._info_locks[hash(url) % _LOCKS]:  # several threads ask once
            later = self._file_infos.get(url)
            if later is not None and (later is not known or not anew):
                return later
            found = self._retrier.call(url, partial(self._thread_client(url).file_info, url))
            if not found.version:  # a later file could have its blocks
                found = replace(found, version=f"{os.getpid()}-{next(self._unversioned)}")
            self._file_infos[url] = found
            if len(self._file_infos) > _INFOS_KEPT:
                self._file_infos.popitem(last=False)
        return found

    def read_range(self, url: str, start: int, stop: int, *, anew: bool = False) -> bytes:
        """Return bytes `[start, stop)` of a file, fewer at its end.

        Args:
            url: URL of the file.
            start: First byte.
            stop: Byte behind the last.
            anew: Whether to fetch them even if they are in the cache.

        Raises:
            OmniError: If that fails.
        """
        try:
            info = self.file_info(url)
        except MissingFileError:
            raise missing_file_error(url) from None
        stop = min(stop, info.size)
        parts = []
        for number in range(start // BLOCK, -(-stop // BLOCK) if start < stop else 0):
            first = number * BLOCK
            left, right = max(start - first, 0), min(stop - first, BLOCK)
            parts.append(self._read_block_range(url, info, number, left, right, anew=anew))
        return b"".join(parts)

    def list_names(self, url: str) -> list[str]:
        """Return the names in a folder, those of folders with a slash behind them.

        Raises:
            MissingFileError: If there is no such folder.
            OmniError: If the server has no listings or refuses.
        """
        return self._retrier.call(url, partial(self._thread_client(url).list_names, url))

    def _read_block_range(
        self, url: str, info: FileInfo, number: int, start: int, stop: int, *, anew: bool
    ) -> bytes:
        """Return bytes `[start, stop)` of a block."""
        file = _version_digest(url, info)
        name = f"{file}-{number}"
        found = None if anew else self._find_cached_range(name, start, stop)
        if found is not None:
            return found
        with self.cache.lock_block(name if info.has_ranges else file):
            found = None if anew else self._find_cached_range(name, start, stop)
            if found is None:
                fetch = self._fetch_block if info.has_ranges else self._fetch_all_blocks
                found = fetch(url, info, number)[start:stop]
        return found

    def _find_cached_range(self, name: str, start: int, stop: int) -> bytes | None:
        if name in self._recent:
            return self._recent[name][start:stop]
        return self.cache.read(name, start, stop)

    def _keep_block(self, name: str, content: bytes) -> None:
        if self.cache.write(name, content):
            self._recent.pop(name, None)
            return
        self.add_count("uncached", self.cache.limit > 0)
        self._recent[name] = content
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def _fetch_block(self, url: str, info: FileInfo, number: int) -> bytes:
        """Fetch a block; what came before an error is kept, and the rest wanted again."""
        content = bytearray()
        first, size = number * BLOCK, min(BLOCK, info.size - number * BLOCK)

        def fetch_rest() -> None:
            if len(content) == size:  # all came before the error
                return
            start = first + len(content)
            try:
                came = self._thread_client(url).read_range(url, start, first + size, info)
            except TransientError as error:
                self._append_and_count(content, error.content[: size - len(content)])
                self.add_count("short_reads", bool(error.content))
                raise
            self._append_and_count(content, came)
            if len(content) < size:
                self.add_count("short_reads")
                raise TransientError(f"{len(came)} of {first + size - start} bytes came")

        self._call_with_retries(url, fetch_rest)
        self._keep_block(f"{_version_digest(url, info)}-{number}", bytes(content))
        return bytes(content)

    def _append_and_count(self, content: bytearray, came: bytes) -> None:
        self.add_count("bytes_fetched", len(came))
        content += came

    def _fetch_all_blocks(self, url: str, info: FileInfo, number: int) -> bytes:
        """Fetch all blocks of a file whose server gives no ranges; return one of them."""
        if self.cache.limit < info.size * 1.2:  # making room leaves nine tenths
            raise OmniError(
                f"the server gives no byte ranges of '{redact_url(url)}', which needs a cache that "
                f"takes all of it; set {GIGABYTES} to {info.size * 1.2e-9:.3g} or more, or copy "
                "the file to a local folder"
            )
        wanted = [b""]

        def fetch_whole_file() -> None:
            count = 0
            for count, block in enumerate(self._stream_blocks(url, info), 1):
                self._keep_block(f"{_version_digest(url, info)}-{count - 1}", block)
                if count == number + 1:
                    wanted[0] = block
            if count != -(-info.size // BLOCK):
                self.add_count("short_reads")
                raise TransientError(f"{count} of {-(-info.size // BLOCK)} blocks came")

        self._call_with_retries(url, fetch_whole_file)
        return wanted[0]

    def _stream_blocks(self, url: str, info: FileInfo) -> Iterator[bytes]:
        """Yield the complete blocks of a file as they come."""
        content, left = bytearray(), info.size
        try:
            for piece in self._thread_client(url).stream_file(url, info):
                self._append_and_count(content, piece)
                while content and len(content) >= min(BLOCK, left):
                    block = bytes(content[: min(BLOCK, left)])
                    del content[: len(block)]
                    left -= len(block)
                    yield block
        except TransientError:
            self.add_count("short_reads")
            raise

    def _call_with_retries(self, url: str, request: Callable[[], None]) -> None:
        try:
            self._retrier.call(url, request)
        except MissingFileError:
            raise missing_file_error(url) from None

    def _thread_client(self, url: str) -> StorageClient:
        """Return this thread's client of a scheme."""
        scheme = url_scheme(url)
        key = ("http" if scheme in WEB else scheme, threading.get_ident())
        if key not in self._clients:
            policy = self._retrier.policy
            is_web = scheme in WEB
            self._clients[key] = WebClient(policy) if is_web else ObjectStoreClient(url, policy)
        return self._clients[key]


def _version_digest(url: str, info: FileInfo) -> str:
    """Return the name of the blocks of this version of a file."""
    return hashlib.sha256(f"{url}\n{info.size}\n{info.version}".encode()).hexdigest()[:32]


_readers: dict[int, UrlReader] = {}
"""The reader of each process, by its id; connections of others do not outlive a fork."""


def shared_url_reader() -> UrlReader:
    """Return the reader of this process."""
    if os.getpid() not in _readers:
        _readers[os.getpid()] = UrlReader()
    return _readers[os.getpid()]


def read_counts_so_far() -> ReadCounts:
    """Return a copy of what this process fetched so far."""
    known = _readers.get(os.getpid())
    return ReadCounts() if known is None else replace(known.counts)
