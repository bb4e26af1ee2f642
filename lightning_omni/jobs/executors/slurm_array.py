"""Do one part of a job, as an element of a Slurm array does."""

from __future__ import annotations

import logging
import os

from lightning_omni.errors import OmniError
from lightning_omni.jobs.job import LoadJob
from lightning_omni.jobs.worker import Worker, check_part_number

log = logging.getLogger(__name__)

_ID, _FIRST, _COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"


def run_array_element(load: LoadJob, part: int | None, parts: int | None) -> bool:
    """Do the steps of one part; the last part to do so completes the job.

    Elements need not run at the same time: none waits for steps of another's own.

    Args:
        load: Builds the job.
        part: Part, counted from 0; None for Slurm's.
        parts: Number of parts; None for Slurm's.

    Returns:
        Whether the job is complete.

    Raises:
        OmniError: If the part is none of the parts, or something is missing or damaged.
    """
    part, parts = _resolve_part(part, parts)
    check_part_number(part, parts)
    worker = Worker(load(0), part=part, parts=parts)
    try:
        if worker.is_complete() or worker.run_job(is_array_element=True):
            log.info("%s is complete", worker.job.names.title)
            return True
    finally:
        worker.close()
    log.info("part %d of %d is done; the last part to finish completes the work", part, parts)
    return False


def _resolve_part(part: int | None, parts: int | None) -> tuple[int, int]:
    if part is None and _ID in os.environ:
        part = int(os.environ[_ID]) - int(os.environ.get(_FIRST, "0"))
    if parts is None and _COUNT in os.environ:
        parts = int(os.environ[_COUNT])
    if part is None or parts is None:
        raise OmniError(
            f"the executor slurm-array needs --part and --parts, or {_ID} and {_COUNT}; start it "
            "with sbatch --array=0-9, or take --executor local"
        )
    return part, parts
