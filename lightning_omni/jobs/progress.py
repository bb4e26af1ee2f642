"""One line about a job's progress: steps, rate and time left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence

from lightning_omni.jobs.job import JobNames
from lightning_omni.jobs.step_records import StepRecords
from lightning_omni.jobs.steps import Step

log = logging.getLogger(__name__)

EVERY_S = 20.0
_ON_TERMINAL_S = 1.0


class Progress:
    """Shows what all processes together have finished of a phase.

    On a terminal the line is renewed every second; elsewhere it is logged every `EVERY_S`.

    Args:
        records: What is finished.
        names: Names of the job and its steps.
        is_shown: Whether this process shows anything.
    """

    def __init__(self, records: StepRecords, names: JobNames, *, is_shown: bool = True) -> None:
        self.records, self.names, self.is_shown = records, names, is_shown
        self.is_terminal = sys.stderr.isatty()
        self.every_s = _ON_TERMINAL_S if self.is_terminal else EVERY_S
        self.begin_phase([])

    def begin_phase(self, steps: Sequence[Step]) -> None:
        """Start with the steps of another phase."""
        self.steps, self.count, self.was_shown = steps, 0, False
        self.started = self.last = time.monotonic()
        self.done_before = self._finished_size() if steps else 0

    def add_count(self, count: int) -> None:
        """Count items that this process has done."""
        self.count += count
        self.show_if_due()

    def show_if_due(self) -> None:
        """Show the line if it is time to."""
        now = time.monotonic()
        if not self.is_shown or not self.steps or now - self.last < self.every_s:
            return
        self.last, self.was_shown = now, True
        if self.is_terminal:
            sys.stderr.write(f"\r{self.status_line(now)}\033[K")
            sys.stderr.flush()
        else:
            log.info("%s", self.status_line(now))

    def end_phase(self) -> None:
        """Leave the line, where one was shown."""
        if self.was_shown and self.is_terminal:
            sys.stderr.write("\n")

    def status_line(self, now: float) -> str:
        """Return what is finished, the rate of this process and the time left for all."""
        seconds = max(now - self.started, 1e-9)
        done, total = self._finished_size(), sum(step.size for step in self.steps)
        finished = sum(self.records.find(step) is not None for step in self.steps)
        gained = done - self.done_before
        kind = self.steps[0].kind
        steps = self.names.steps.get(kind, kind)
        words = [f"{self.names.title}: {finished} of {len(self.steps)} {steps}"]
        if self.count:
            words.append(f"{self.count / seconds:.1f} {self.names.items.get(kind, 'items')}/s here")
        if gained:
            words.append(f"{_format_duration((total - done) / gained * seconds)} left")
        return ", ".join(words)

    def _finished_size(self) -> int:
        return sum(step.size for step in self.steps if self.records.find(step) is not None)


def _format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
