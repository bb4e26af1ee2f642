"""The files at URLs as one process reads them: through clients, retries and the cache."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from lightning_omni.data.storage.cache import GIGABYTES, BlockCache, cache_of_environment
from lightning_omni.data.storage.clients import Client, FileFacts
from lightning_omni.data.storage.counts import ReadCounts
from lightning_omni.data.storage.faults import FaultError, MissingFileError, missing
from lightning_omni.data.storage.filesystems import ObjectStoreClient
from lightning_omni.data.storage.retries import Retries, RetryPolicy
from lightning_omni.data.storage.urls import WEB, scheme_of, shown
from lightning_omni.data.storage.web import WebClient
from lightning_omni.errors import OmniError

BLOCK = 4 << 20
_RECENT, _FACTS_KEPT = 16, 4096


class Store:
    """Reads files at URLs in blocks.

    Args:
        cache: Blocks on the disk; None for that of the environment.
        policy: Time limits and attempts; None for the usual ones.
    """

    def __init__(self, cache: BlockCache | None = None, policy: RetryPolicy | None = None) -> None:
        self.cache = cache or cache_of_environment()
        self._counts = ReadCounts()
        self._retries = Retries(self._counts, policy)
        self._clients: dict[tuple[str, int], Client] = {}
        self._facts: OrderedDict[str, FileFacts] = OrderedDict()
        self._unversioned = time.time_ns()
        self._recent: OrderedDict[str, bytes] = OrderedDict()  # blocks without room on the disk

    @property
    def counts(self) -> ReadCounts:
        """What was fetched so far."""
        self._counts.damaged += self.cache.damaged
        self.cache.damaged = 0
        return self._counts

    def facts(self, url: str, *, anew: bool = False) -> FileFacts:
        """Return the facts of a file.

        Args:
            url: URL of the file.
            anew: Whether to ask the server even if the facts are known.

        Raises:
            MissingFileError: If there is no such file.
            OmniError: If the server cannot be reached or refuses.
        """
        if anew or url not in self._facts:
            found = self._retries.run(url, partial(self._client(url).facts, url))
            if not found.version:  # a later file could have its blocks
                self._unversioned += 1
                found = replace(found, version=f"{os.getpid()}-{self._unversioned}")
            self._facts[url] = found
            if len(self._facts) > _FACTS_KEPT:
                self._facts.popitem(last=False)
        return self._facts[url]

    def read(self, url: str, start: int, stop: int, *, anew: bool = False) -> bytes:
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
            facts = self.facts(url)
        except MissingFileError:
            raise missing(url) from None
        stop = min(stop, facts.size)
        parts = []
        for number in range(start // BLOCK, -(-stop // BLOCK) if start < stop else 0):
            first = number * BLOCK
            left, right = max(start - first, 0), min(stop - first, BLOCK)
            parts.append(self._part(url, facts, number, left, right, anew=anew))
        return b"".join(parts)

    def names(self, url: str) -> list[str]:
        """Return the names in a folder, those of folders with a slash behind them.

        Raises:
            MissingFileError: If there is no such folder.
            OmniError: If the server has no listings or refuses.
        """
        return self._retries.run(url, partial(self._client(url).names, url))

    def _part(
        self, url: str, facts: FileFacts, number: int, start: int, stop: int, *, anew: bool
    ) -> bytes:
        """Return bytes `[start, stop)` of a block."""
        file = _digest(url, facts)
        name = f"{file}-{number}"
        found = None if anew else self._kept(name, start, stop)
        if found is not None:
            return found
        with self.cache.lock(name if facts.has_ranges else file):
            found = None if anew else self._kept(name, start, stop)
            if found is None:
                fetch = self._fetch_block if facts.has_ranges else self._fetch_all
                found = fetch(url, facts, number)[start:stop]
        return found

    def _kept(self, name: str, start: int, stop: int) -> bytes | None:
        if name in self._recent:
            return self._recent[name][start:stop]
        return self.cache.read(name, start, stop)

    def _keep(self, name: str, content: bytes) -> None:
        if self.cache.write(name, content):
            self._recent.pop(name, None)
            return
        self._counts.uncached += self.cache.limit > 0
        self._recent[name] = content
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def _fetch_block(self, url: str, facts: FileFacts, number: int) -> bytes:
        """Fetch a block; what came before a fault is kept, and the rest wanted again."""
        content = bytearray()
        first, size = number * BLOCK, min(BLOCK, facts.size - number * BLOCK)

        def rest() -> None:
            if len(content) == size:  # all came before the fault
                return
            start = first + len(content)
            try:
                came = self._client(url).read(url, start, first + size, facts)
            except FaultError as fault:
                self._took(content, fault.content[: size - len(content)])
                self._counts.short_reads += bool(fault.content)
                raise
            self._took(content, came)
            if len(content) < size:
                self._counts.short_reads += 1
                raise FaultError(f"{len(came)} of {first + size - start} bytes came")

        self._run(url, rest)
        self._keep(f"{_digest(url, facts)}-{number}", bytes(content))
        return bytes(content)

    def _took(self, content: bytearray, came: bytes) -> None:
        self._counts.bytes_fetched += len(came)
        content += came

    def _fetch_all(self, url: str, facts: FileFacts, number: int) -> bytes:
        """Fetch all blocks of a file whose server gives no ranges; return one of them."""
        if self.cache.limit < facts.size * 1.2:  # making room leaves nine tenths
            raise OmniError(
                f"the server gives no byte ranges of '{shown(url)}', which needs a cache that "
                f"takes all of it; set {GIGABYTES} to {facts.size * 1.2e-9:.3g} or more, or copy "
                "the file to a local folder"
            )
        wanted = [b""]

        def whole() -> None:
            count = 0
            for count, block in enumerate(self._blocks(url, facts), 1):
                self._keep(f"{_digest(url, facts)}-{count - 1}", block)
                if count == number + 1:
                    wanted[0] = block
            if count != -(-facts.size // BLOCK):
                self._counts.short_reads += 1
                raise FaultError(f"{count} of {-(-facts.size // BLOCK)} blocks came")

        self._run(url, whole)
        return wanted[0]

    def _blocks(self, url: str, facts: FileFacts) -> Iterator[bytes]:
        """Yield the complete blocks of a file as they come."""
        content, left = bytearray(), facts.size
        try:
            for piece in self._client(url).stream(url, facts):
                self._took(content, piece)
                while content and len(content) >= min(BLOCK, left):
                    block = bytes(content[: min(BLOCK, left)])
                    del content[: len(block)]
                    left -= len(block)
                    yield block
        except FaultError:
            self._counts.short_reads += 1
            raise

    def _run(self, url: str, request: Callable[[], None]) -> None:
        try:
            self._retries.run(url, request)
        except MissingFileError:
            raise missing(url) from None

    def _client(self, url: str) -> Client:
        """Return this thread's client of a scheme."""
        scheme = scheme_of(url)
        key = ("http" if scheme in WEB else scheme, threading.get_ident())
        if key not in self._clients:
            policy = self._retries.policy
            is_web = scheme in WEB
            self._clients[key] = WebClient(policy) if is_web else ObjectStoreClient(url, policy)
        return self._clients[key]


def _digest(url: str, facts: FileFacts) -> str:
    """Return the name of the blocks of this version of a file."""
    return hashlib.sha256(f"{url}\n{facts.size}\n{facts.version}".encode()).hexdigest()[:32]


_stores: dict[int, Store] = {}
"""The store of each process, by its id; connections of others do not outlive a fork."""


def store() -> Store:
    """Return the store of this process."""
    if os.getpid() not in _stores:
        _stores[os.getpid()] = Store()
    return _stores[os.getpid()]


def counts_so_far() -> ReadCounts:
    """Return a copy of what this process fetched so far."""
    known = _stores.get(os.getpid())
    return ReadCounts() if known is None else replace(known.counts)
