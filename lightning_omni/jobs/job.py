"""What a job is: phases of steps in folders that all its processes see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lightning_omni.errors import OmniError
from lightning_omni.jobs.step_records import StepRecords
from lightning_omni.jobs.steps import Step


@dataclass(frozen=True, slots=True)
class JobNames:
    """Names of a job and its steps in lines of progress.

    Attributes:
        title: What is done, "encoding".
        steps: Steps by their kind, "media shards"; other kinds are named by themselves.
        items: What is counted within them by their kind, "media".
    """

    title: str
    steps: Mapping[str, str]
    items: Mapping[str, str]


class Job(Protocol):
    """Work in phases, whose outputs are the same whoever does a step, and how often.

    Attributes:
        work: Folder of what is needed until the job is complete: claims, records, plan.
        records: StepRecords of the finished steps.
        names: Names in lines of progress.
        array_kind: Kind of step of which an element of an array does only its own.
        on_progress: Called with the number of items done since it was last called.
    """

    work: Path
    records: StepRecords
    names: JobNames
    array_kind: str
    on_progress: Callable[[int], None]

    def agree_on_plan(self) -> None:
        """Agree on the plan with processes that came before; the caller is alone.

        Raises:
            PlanMismatchError: If the folder was begun by another plan.
        """

    def phase_steps(self, number: int) -> Sequence[Step] | None:
        """Return the steps of a phase, all of whose predecessors are done; None behind the last."""

    def run_step(self, step: Step) -> int:
        """Do a step and return the number of items in its output, which appears when complete."""

    def finish(self) -> None:
        """Complete the job when all phases are done; the caller is alone."""

    def is_complete(self) -> bool:
        """Whether the job was finished, by whatever process."""

    def remove_work_folder(self) -> None:
        """Remove what a complete job no longer needs; several processes may do so at once."""

    def close(self) -> None:
        """Close what this process has open."""

    def explain_error(self, error: Exception) -> OmniError | None:
        """Return a sentence about an error of the disk or a table; None to raise it as it is."""


LoadJob = Callable[[int], Job]
"""Builds the job in the process that calls it, given the process's number on its machine; can be
pickled."""
