"""Options of the verb `encode` beside those of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_omni.argument_checks import check_within
from lightning_omni.jobs.options import ExecutorName


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How media are turned into codes.

    Args:
        executor: What starts the processes: `local` on this machine, `torchrun` where torchrun has
            started this one, `ray` as tasks of a Ray cluster, `slurm-array` as element of an array.
        processes: Processes of `local`, or tasks of `ray` at one time; None for one per GPU, or per
            CPU core up to 8.
        device: auto, cpu, cuda or cuda:N; of several GPUs, each process takes its own.
        part: Part of an array, counted from 0; None for Slurm's number of the element.
        parts: Parts of the array; None for Slurm's number of elements.
    """

    executor: ExecutorName = "local"
    processes: int | None = None
    device: str = "auto"
    part: int | None = None
    parts: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.processes is not None:
            check_within("processes", self.processes, 1)
