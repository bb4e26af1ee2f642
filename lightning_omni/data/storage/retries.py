"""Repeat requests that fail in a manner that may pass, a bounded number of times."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from lightning_omni.data.storage.read_counts import ReadCounts
from lightning_omni.data.storage.request_errors import TransientError, retries_exhausted_error
from lightning_omni.data.storage.url_text import redact_url

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often a request is tried.

    Attributes:
        attempts: Largest number of attempts.
        attempts_unreachable: The same for a server that was not reached so far.
        first_wait_s: Seconds before the second attempt; they double from there on.
        longest_wait_s: Largest number of seconds between attempts.
        connect_s: Seconds for a connection.
        read_s: Seconds without a byte after which an answer counts as stalled.
        body_s: Seconds for the body of an answer.
    """

    attempts: int = 10
    attempts_unreachable: int = 3
    first_wait_s: float = 0.2
    longest_wait_s: float = 20.0
    connect_s: float = 10.0
    read_s: float = 30.0
    body_s: float = 300.0


POLICY = RetryPolicy()


class Retrier:
    """Repeats requests and counts what it repeats.

    Args:
        counts: Counters of this process.
        policy: How often; None for `POLICY`.
    """

    def __init__(self, counts: ReadCounts, policy: RetryPolicy | None = None) -> None:
        self.counts, self.policy = counts, policy or POLICY
        self._rng = Random(os.getpid())
        self._lock = threading.Lock()
        self._reached: set[str] = set()

    def add_count(self, name: str, by: int = 1) -> int:
        """Add to a counter, from any thread, and return it."""
        with self._lock:
            number: int = getattr(self.counts, name) + by
            setattr(self.counts, name, number)
        return number

    def call(self, url: str, request: Callable[[], T]) -> T:
        """Return what a request gives.

        Raises:
            OmniError: After the last attempt, or if no repetition would help.
            MissingFileError: If there is no such file.
        """
        server = "/".join(redact_url(url).split("/")[:3])
        for attempt in range(1, self.policy.attempts + 1):
            try:
                self.add_count("requests")
                found = request()
            except TransientError as error:
                if not error.is_unreachable:
                    self._reached.add(server)
                if attempt >= self._max_attempts(server):
                    raise retries_exhausted_error(url, attempt, str(error)) from None
                self._count_retry(url, str(error))
                time.sleep(self._backoff_s(attempt, error.wait_s))
            else:
                self._reached.add(server)
                return found
        raise AssertionError("the last attempt returns or raises")

    def _max_attempts(self, server: str) -> int:
        """Return the number of attempts: fewer at a server that never answered, perhaps a typo."""
        policy = self.policy
        return policy.attempts if server in self._reached else policy.attempts_unreachable

    def _count_retry(self, url: str, reason: str) -> None:
        number = self.add_count("retries")
        if number == 10 ** (len(str(number)) - 1):  # 1, 10, 100, ...
            log.warning("'%s': %s; trying again (retry %d so far)", redact_url(url), reason, number)

    def _backoff_s(self, attempt: int, wanted: float) -> float:
        """Return the seconds before the next attempt, spread so that processes do not meet."""
        policy = self.policy
        doubled_s = policy.first_wait_s * 2.0 ** (attempt - 1) * self._rng.uniform(0.5, 1)
        return min(max(doubled_s, wanted), policy.longest_wait_s)
