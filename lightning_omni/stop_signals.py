"""Signals that ask a command to stop: the codes it leaves with, and the exception that ends it."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import resource_tracker
from typing import Any

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit code of a command by the signal that stopped it; 75 asks a scheduler to start it again."""
if hasattr(signal, "SIGUSR1"):  # not on Windows
    EXIT_CODES[signal.SIGUSR1] = 75
HUNG = 77
"""Exit code of a process that ends itself because training hangs; it may be started again."""
_STUCK_S = 5.0
"""How long the main thread has for a signal before its process is ended without it."""
_WORKER_S = 240
"""How long a loader's worker serves its process after SIGTERM: as long as a save may take."""

before_end: list[Callable[[], object]] = []
"""What is called before a process ends that is stuck: it stops those that it has started."""
_is_inside = False
"""Whether a command runs that `Stopped` is to end."""
_raised: weakref.ref[BaseException] | None = None


class Stopped(BaseException):
    """Ends a command that a signal asked to stop.

    Args:
        exit_code: Exit code of the command, one of `EXIT_CODES`.
        message: Sentence for the user; empty where another process tells it.
    """

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code, self.message = exit_code, message


def signal_name(exit_code: int) -> str:
    """Return the name of the signal that an exit code stands for."""
    return next(number.name for number, code in EXIT_CODES.items() if code == exit_code)


@contextmanager
def handle_stop_signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Call a handler for SIGTERM and SIGUSR1 inside; only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _is_inside
    previous, _is_inside = {number: signal.getsignal(number) for number in EXIT_CODES}, True
    for number in EXIT_CODES:
        if number != signal.SIGINT:
            signal.signal(number, handler)
    try:
        with _end_if_stuck():
            yield
    finally:
        _is_inside = False
        for number, one in previous.items():
            signal.signal(number, one)


@contextmanager
def _end_if_stuck() -> Iterator[None]:
    """End the process if `raise_stopped` is to run inside and does not.

    A handler waits until the main thread is back from C, where it may wait long for another process
    at a run's start; the number of a signal is written to a pipe at once. While another handler is
    set, as in training, nothing is done.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    _forget_pipe_in_children()
    left = threading.Event()
    threading.Thread(target=_end_when_stuck, args=(read_end, left), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        left.set()
        os.close(write_end)  # which ends the thread


def _end_when_stuck(read_end: int, left: threading.Event) -> None:
    while numbers := os.read(read_end, 64):
        stuck = [number for number in numbers if _is_to_stop(number)]  # not what training notes
        if stuck and not left.wait(_STUCK_S) and _is_to_stop(stuck[0]):
            _end_here(signal.Signals(stuck[0]), "while waiting")
    os.close(read_end)


def _end_here(number: signal.Signals, when: str) -> None:
    os.write(2, f"stopped by {number.name} {when}\n".encode())
    for call in before_end:
        call()
    os._exit(EXIT_CODES[number])


def _is_to_stop(number: int) -> bool:
    return number in EXIT_CODES and signal.getsignal(number) is raise_stopped


@cache
def _forget_pipe_in_children() -> None:
    """Let forked children not write their own signals to the pipe."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def raise_stopped(number: int, frame: Any) -> None:
    """Handle a signal: end the command here, and ignore further signals meanwhile.

    The process is ended if the exception is dropped on its way, as C code does that imports.

    Raises:
        Stopped: Always.
    """
    global _raised
    for one in EXIT_CODES:
        signal.signal(one, signal.SIG_IGN)
    received = signal.Signals(number)
    stopped = Stopped(EXIT_CODES[received], f"stopped by {received.name}")
    _raised = weakref.ref(stopped, partial(_end_if_dropped, received))
    try:
        raise stopped
    finally:
        del stopped  # which this frame, and so the traceback, would keep


def _end_if_dropped(number: signal.Signals, dropped: object) -> None:
    if _is_inside:
        _end_here(number, "while starting")


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Let processes that multiprocessing starts inside never get SIGINT; their parent ends them.

    Ctrl-C goes to all processes of a terminal, and each would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which changes the mask when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_stop_signals(*_: Any) -> None:
    """Let a loader's worker serve its process until that has saved and leaves.

    Terminals and schedulers signal workers, too. A second SIGTERM, by which a process that leaves
    ends its workers, ends this one, and so do four minutes after the first. A thread waits for
    them: handlers run in the main thread, which may sleep for seconds while another gets a signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_worker_at_second_sigterm, daemon=True).start()


def _end_worker_at_second_sigterm() -> None:
    """End with 0: for a worker that a signal kills torch raises an error, also within a save."""
    signal.sigwait({signal.SIGTERM})
    timer = threading.Timer(_WORKER_S, os._exit, (0,))
    timer.daemon = True
    timer.start()
    signal.sigwait({signal.SIGTERM})
    os._exit(0)
