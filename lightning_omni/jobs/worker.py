"""One process's part of a job: its own steps first, then what others have not begun."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Sequence

from lightning_omni.errors import OmniError
from lightning_omni.jobs.claims import Claims
from lightning_omni.jobs.job import Job
from lightning_omni.jobs.progress import Progress
from lightning_omni.jobs.steps import Step

POLL_S = 0.2
_FINISHED_S = 90  # until a network file system shows that another host has finished


class Worker:
    """Does steps of a job together with other processes.

    Args:
        job: The job.
        part: Number of this process among `parts`.
        parts: Processes that begin with steps of their own: `part`, `part + parts`, ....
        is_shown: Whether to show progress.
    """

    def __init__(self, job: Job, *, part: int = 0, parts: int = 1, is_shown: bool = True) -> None:
        self.job, self.records = job, job.records
        self.part, self.parts = part, parts
        self.progress = Progress(self.records, job.names, is_shown=is_shown)
        job.on_progress = self.progress.add_count
        self.claims = Claims(job.work / "claims")

    def agree_on_plan(self) -> None:
        """Agree with other processes on the plan.

        Raises:
            PlanMismatchError: If the folder was begun by another plan.
        """
        with self.claims.hold("plan", poll_s=POLL_S):
            if not self.is_complete():
                self.job.agree_on_plan()

    def run_job(self, *, is_array_element: bool = False) -> bool:
        """Do steps until the job is complete; return whether it is.

        Args:
            is_array_element: Leave steps of the job's `array_kind` to the parts they belong to, and
                return if they are missing.

        Raises:
            OmniError: If something is damaged or missing, or the folder was begun by another plan.
        """
        return self._run_unless_complete(
            lambda: self._run_phases(is_array_element=is_array_element)
        )

    def run_step(self, step: Step) -> str:
        """Do one step, or wait while another process does it; return its output's digest."""
        self._run_unless_complete(lambda: self._run_steps([step]))
        record = self.records.find(step)
        return record.sha256 if record else ""  # none once another process has finished the job

    def finish_job(self) -> None:
        """Complete the job, all of whose phases are done."""

        def finish_once() -> bool:
            with self.claims.hold("finish", poll_s=POLL_S):
                if not self.is_complete():
                    self.job.finish()
                self.job.remove_work_folder()
            return True

        self._run_unless_complete(finish_once)

    def is_complete(self) -> bool:
        """Whether the job is finished."""
        return self.job.is_complete()

    def close(self) -> None:
        """Give all claims back, and remove what a complete job no longer needs."""
        self.job.close()
        self.claims.close()
        if self.is_complete():  # also if this process came when another had just finished
            self.job.remove_work_folder()

    def _run_unless_complete(self, work: Callable[[], bool]) -> bool:
        """Return what work does; if another process finishes meanwhile, True."""
        try:
            return work()
        except (OSError, sqlite3.Error) as error:
            is_gone = getattr(error, "errno", None) in (errno.ENOENT, errno.ESTALE)
            waits = is_gone and not self.job.work.is_dir()
            for _ in range(_FINISHED_S if waits else 1):
                if self.is_complete():  # another process took away what is no longer needed
                    return True
                if waits:
                    time.sleep(1)
            sentence = self.job.explain_error(error)
            if sentence is None:
                raise
            raise sentence from error

    def _run_phases(self, *, is_array_element: bool) -> bool:
        self.agree_on_plan()
        number = 0
        while not self.is_complete() and (phase := self.job.phase_steps(number)) is not None:
            number += 1
            own = phase[self.part :: self.parts]
            if is_array_element and phase and phase[0].kind == self.job.array_kind:
                self._run_steps(own)
                if any(self.records.find(step) is None for step in phase):
                    return False
                continue
            taken = {step.name for step in own}
            self._run_steps([*own, *(step for step in phase if step.name not in taken)])
        self.finish_job()
        return True

    def _run_steps(self, steps: Sequence[Step]) -> bool:
        """Do steps in this order, except those that others are doing, and wait for these."""
        self.progress.begin_phase(steps)
        remaining = list(steps)
        while remaining and not self.is_complete():
            if not self._run_unclaimed_steps(remaining):
                time.sleep(POLL_S)
                self.progress.show_if_due()
            remaining = [s for s in remaining if self.records.find(s) is None]
        self.progress.end_phase()
        return True

    def _run_unclaimed_steps(self, steps: Sequence[Step]) -> bool:
        """Do those steps that nobody does or has done; return whether there were any."""
        has_done = False
        for step in steps:
            if self.records.find(step) is not None or not self.claims.acquire(step.name):
                continue
            try:
                if self.records.find(step) is None:
                    self.records.write(step, self.job.run_step(step))
                has_done = True
            finally:
                self.claims.release(step.name)
        return has_done


def check_part_number(part: int, parts: int) -> None:
    """Refuse numbers that name no part.

    Raises:
        OmniError: If so.
    """
    if parts < 1 or not 0 <= part < parts:
        raise OmniError(
            f"part is {part} of {parts}, wanted a part from 0 to parts - 1; number the elements of "
            "the array from 0"
        )
