"""Scoring in a thread of its own, while the model generates answers to the next tasks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch

log = logging.getLogger(__name__)

MAX_WAITING = 3
"""Tasks whose answers, in the host's memory, are kept until they are scored."""


class ScoringQueue:
    """Calls functions one after the other, without gradients, in one thread.

    A recognizer takes as long as generation does, and neither keeps two cores busy. Leaving the
    context waits for all calls, also after an error, so that what was answered is scored.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def submit(self, call: Callable[[], None]) -> None:
        """Let a function be called; wait first if too many are waiting.

        Raises:
            Exception: What an earlier call raised.
        """
        while self._waiting and (len(self._waiting) >= MAX_WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(torch.inference_mode()(call)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        for call in self._waiting:
            if error is None:
                call.result()
            elif failure := call.exception():
                log.error("scoring failed, too: %s: %s", type(failure).__name__, failure)
