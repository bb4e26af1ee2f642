"""Fetch byte ranges at URLs in threads, before the process reads them.

The ranges go into the cache. Only a read of the same block waits for them, and errors are left to
that read, which meets them again.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
from collections.abc import Callable

from lightning_omni.errors import OmniError

THREADS = 4
_MOST_WAITING = 256

_Fetch = Callable[[], object]


class ReadAhead:
    """Fetches in threads, in the order in which it was asked.

    The threads end with the process, at most one request later.
    """

    def __init__(self) -> None:
        self._waiting: queue.Queue[_Fetch] = queue.Queue(_MOST_WAITING)
        self._is_closed = threading.Event()
        for _ in range(THREADS):
            threading.Thread(target=self._fetch_until_closed, daemon=True).start()
        atexit.register(self.close)

    def add(self, fetch: _Fetch) -> None:
        """Ask for a range; the request is dropped if too many wait."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(fetch)

    def close(self) -> None:
        """Fetch nothing more, and let the threads end."""
        self._is_closed.set()
        for _ in range(THREADS):
            self.add(lambda: None)  # wakes one that waits

    def _fetch_until_closed(self) -> None:
        while not self._is_closed.is_set():
            fetch = self._waiting.get()
            with contextlib.suppress(OmniError, OSError):
                if not self._is_closed.is_set():
                    fetch()


_of_process: dict[int, ReadAhead] = {}
"""The threads of each process, by its id; they do not outlive a fork."""


def shared_read_ahead() -> ReadAhead:
    """Return the threads of this process."""
    if os.getpid() not in _of_process:
        _of_process[os.getpid()] = ReadAhead()
    return _of_process[os.getpid()]
