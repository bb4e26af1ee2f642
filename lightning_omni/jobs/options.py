"""Which executor does a job, and how many processes it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lightning_omni.argument_checks import check_within
from lightning_omni.errors import OmniError, did_you_mean

ExecutorName = Literal["local", "torchrun", "ray", "slurm-array"]
EXECUTORS: tuple[str, ...] = get_args(ExecutorName)


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """What starts the processes of a job.

    Args:
        executor: `local` on this machine, `torchrun` where torchrun has started this process, `ray`
            as tasks of a Ray cluster, `slurm-array` as element of an array.
        processes: Processes of `local`, or tasks of `ray` at one time; None for the usual number.
        part: Part of an array, counted from 0; None for Slurm's number of the element.
        parts: Parts of the array; None for Slurm's number of elements.

    Raises:
        OmniError: If an option does not fit the executor.
    """

    executor: str = "local"
    processes: int | None = None
    part: int | None = None
    parts: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.executor not in EXECUTORS:
            raise OmniError(
                f"executor is '{self.executor}'{did_you_mean(self.executor, EXECUTORS)}, wanted "
                f"one of {', '.join(EXECUTORS)}"
            )
        if self.processes is not None:
            check_within("processes", self.processes, 1)
        has_parts = self.part is not None or self.parts is not None
        if has_parts and self.executor != "slurm-array":
            raise OmniError(
                f"--part and --parts belong to --executor slurm-array, not to {self.executor}; "
                "leave them out"
            )
        if self.processes is not None and self.executor in ("torchrun", "slurm-array"):
            raise OmniError(
                f"--processes does not belong to --executor {self.executor}, which has one process "
                "for each rank or element; leave it out"
            )
