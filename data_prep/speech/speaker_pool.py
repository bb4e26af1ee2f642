"""Lines that are spoken into a cache of clips, by one process or by several."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from data_prep.speech.clip_cache import Clip, synthesize_clip
from data_prep.speech.espeak import close_espeak
from data_prep.speech.synthesizer_config import build_synthesizer
from lightning_omni.errors import OmniError
from lightning_omni.stop_signals import children_ignore_interrupts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SpokenLine:
    """A text and the voice that says it."""

    text: str
    voice: str


class ClipSpeaker:
    """Speaks lines into a cache on disk.

    Args:
        config: `class_path` and `init_args` of the synthesizer.
        folder: Folder of the clips.
    """

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.synthesizer = build_synthesizer(config)
        self._folder = folder

    def __call__(self, lines: Sequence[SpokenLine]) -> list[float | str]:
        """Speak lines that are not in the cache; return the seconds of each, or why it failed."""
        return [self._speak_line(line) for line in lines]

    def _speak_line(self, line: SpokenLine) -> float | str:
        clip = Clip.in_folder(line.text, line.voice, self._folder)
        try:
            synthesize_clip(clip, self.synthesizer)
        except OmniError as error:
            return str(error)
        return clip.duration_s()


_speaker: ClipSpeaker | None = None
"""The speaker of a worker process."""


def _initialize_worker(config: dict[str, Any], folder: Path) -> None:
    global _speaker
    Thread(target=_exit_with_parent, daemon=True).start()
    _speaker = ClipSpeaker(config, folder)


def _exit_with_parent() -> None:
    """Wait for the end of the process that began this one; killed, it cannot stop its workers."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _speak_lines_in_worker(lines: Sequence[SpokenLine]) -> list[float | str]:
    if _speaker is None:
        raise OmniError("the worker process has no synthesizer")
    return _speaker(lines)


class SpeakerPool:
    """Speaks batches of lines in worker processes, each with a synthesizer of its own.

    Args:
        speaker: Speaker of this process, which is used if there is one process.
        config: `class_path` and `init_args` of the synthesizer.
        folder: Folder of the clips.
        processes: Number of processes.
    """

    def __init__(
        self, speaker: ClipSpeaker, config: dict[str, Any], folder: Path, *, processes: int
    ) -> None:
        self._speaker = speaker
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            # a synthesizer may hold a GPU or threads, so workers are not forked
            self._pool = ProcessPoolExecutor(
                processes, get_context("spawn"), _initialize_worker, (config, folder)
            )

    def speak_batches(
        self, batches: Iterable[T], lines_of: Callable[[T], list[SpokenLine]]
    ) -> Iterator[tuple[T, list[float | str]]]:
        """Yield each batch and the results of its lines, in order.

        Raises:
            OmniError: If a process ends before its time.
        """
        if self._pool is None:
            yield from ((batch, self._speaker(lines_of(batch))) for batch in batches)
            return
        waiting: deque[tuple[T, Future[list[float | str]]]] = deque()
        try:
            for batch in batches:
                with children_ignore_interrupts():  # which starts processes at first
                    waiting.append(
                        (batch, self._pool.submit(_speak_lines_in_worker, lines_of(batch)))
                    )
                if len(waiting) > 2 * self._processes:
                    first, done = waiting.popleft()
                    yield first, done.result()
            while waiting:
                first, done = waiting.popleft()
                yield first, done.result()
        except BrokenProcessPool as error:
            raise OmniError(
                "a process that speaks has ended, perhaps for want of memory; repeat the command "
                "with fewer --processes"
            ) from error

    def close(self) -> None:
        """Stop the worker processes, and the program that speaks for this one."""
        close_espeak()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
