"""Do a job with the processes that torchrun has started, on any number of machines."""

from __future__ import annotations

import os

from lightning_omni.errors import OmniError
from lightning_omni.jobs.job import LoadJob
from lightning_omni.jobs.worker import Worker, check_part_number


def run_rank(load: LoadJob) -> None:
    """Do this rank's part of a job; ranks meet in the folder and need no process group.

    Args:
        load: Builds the job.

    Raises:
        OmniError: If torchrun did not start this process, or something is missing or damaged.
    """
    try:
        rank, world_size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    except (KeyError, ValueError) as error:
        raise OmniError(
            "the executor torchrun needs RANK and WORLD_SIZE; start the command as `torchrun "
            "--standalone --nproc_per_node 8 -m lightning_omni ...`, or take --executor local"
        ) from error
    check_part_number(rank, world_size)
    job = load(int(os.environ.get("LOCAL_RANK", rank)))
    worker = Worker(job, part=rank, parts=world_size, is_shown=rank == 0)
    try:
        if not worker.is_complete():
            worker.run_job()
    finally:
        worker.close()
