"""End a process whose training hangs, with the stacks of its threads."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L

from lightning_omni.argument_checks import check_within
from lightning_omni.stop_signals import HUNG

_POLLS = 20  # in the time after which a step counts as hung
_LONGEST_POLL_S = 5.0
_LATE = 2  # a poll that comes later than so many times its wait counts as one that long
_TIMER = 4  # the timer's time, in those after which a step counts as hung


class Watchdog(L.Callback):
    """Ends the process if no step ends for a time: of training, or of validation in it.

    It writes the stacks of all threads to stderr and to `hung-rank<n>.txt` in the run's folder, and
    leaves with the code `HUNG`. Other processes of the run, which then wait for this one, leave
    likewise. What a callback does between two steps, such as saving, counts as part of a step;
    time in which the process is stopped, as by Ctrl-Z or `scontrol suspend`, does not.

    Args:
        timeout_s: Seconds without the end of a step.
    """

    def __init__(self, timeout_s: float = 3600.0) -> None:
        check_within("timeout_s", timeout_s, 0.1)
        self.timeout_s = timeout_s
        self._folder, self._rank = Path(), 0
        self._waited_s = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to watch."""
        self._folder, self._rank = Path(trainer.default_root_dir), trainer.global_rank
        self._waited_s = 0.0
        self._ended.clear()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def on_train_batch_end(self, *args: Any) -> None:
        """Note that a step has ended."""
        self._waited_s = 0.0

    def on_validation_batch_end(self, *args: Any) -> None:
        """Note that a step of validation has ended."""
        self._waited_s = 0.0

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End watching."""
        self._end_watching()

    def on_exception(self, *args: Any) -> None:
        """End watching."""
        self._end_watching()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """End watching."""
        self._end_watching()

    def _end_watching(self) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        """Wait for the end of watching, and look at the time; run by a thread of its own.

        If an extension keeps all threads from running, this one too, a timer that is not Python's
        ends the process, later, as it cannot tell this from a process that was stopped.
        """
        poll_s = min(self.timeout_s / _POLLS, _LONGEST_POLL_S)
        began_s = time.monotonic()
        while not self._ended.wait(poll_s):
            now_s = time.monotonic()
            self._waited_s += min(now_s - began_s, _LATE * poll_s)
            began_s = now_s
            if self._waited_s > self.timeout_s:
                self._end_process()
            faulthandler.dump_traceback_later(_TIMER * self.timeout_s, file=2, exit=True)

    def _end_process(self) -> None:
        """Write all stacks, last to the disk, which may be what hangs: then the timer comes."""
        path = self._folder / f"hung-rank{self._rank}.txt"
        told = (
            f"no step has ended for {self.timeout_s:g} s; stacks of all threads, also in {path}:\n"
        )
        os.write(2, told.encode())
        faulthandler.dump_traceback(2)
        with suppress(OSError), path.open("w") as file:
            faulthandler.dump_traceback(file)
        os._exit(HUNG)
