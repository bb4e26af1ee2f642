"""Do a job with an executor."""

from __future__ import annotations

from lightning_omni.jobs.executors import local, slurm_array, torchrun
from lightning_omni.jobs.job import LoadJob
from lightning_omni.jobs.options import ExecutorOptions


def run_job(
    load: LoadJob, options: ExecutorOptions, *, processes: int, has_gpu: bool = False
) -> None:
    """Do a job with an executor.

    Args:
        load: Builds the job, in each process anew.
        options: The executor.
        processes: Processes of `local` where the options name no number.
        has_gpu: Whether each task of `ray` takes a GPU.

    Raises:
        OmniError: If something is missing or damaged, or the executor's environment is missing.
    """
    if options.executor == "slurm-array":
        slurm_array.run_array_element(load, options.part, options.parts)
    elif options.executor == "torchrun":
        torchrun.run_rank(load)
    elif options.executor == "ray":
        from lightning_omni.jobs.executors import ray_tasks

        ray_tasks.run_with_ray_tasks(load, options.processes, has_gpu=has_gpu)
    else:
        local.run_with_processes(load, options.processes or processes)
