"""Put a job of Slurm into its queue again."""

from __future__ import annotations

import logging
import os
import subprocess

log = logging.getLogger(__name__)

_SCONTROL_S = 30


def slurm_job_id() -> str | None:
    """Return the number of the job, or element of an array, that this process is of; else None."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue_slurm_job() -> bool:
    """Put this process's job into the queue again, which ends it; return whether Slurm does."""
    job = slurm_job_id()
    if job is None:
        return False
    command = ["scontrol", "requeue", job]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_SCONTROL_S, check=False
        )
        problem = told.stderr.strip() or f"exit code {told.returncode}" if told.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        log.warning("job %s is not requeued (%s); submit it again", job, problem)
    else:
        log.info("job %s is requeued", job)
    return not problem
