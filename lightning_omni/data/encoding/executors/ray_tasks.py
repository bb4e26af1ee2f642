"""Encode with tasks of Ray Core, one for each shard; only paths and digests travel."""

from __future__ import annotations

import logging
import os
import pickle
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lightning_omni.data.encoding.executors import LoadSettings
from lightning_omni.data.encoding.executors.processes import process_device
from lightning_omni.data.encoding.plan import Plan, Step
from lightning_omni.data.encoding.worker import Worker
from lightning_omni.devices import resolve_device
from lightning_omni.errors import OmniError, sentence_behind

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Tasks that are started for a shard, whatever ends them: Ray restarts some of them for ever."""
_workers: dict[bytes, Worker] = {}
"""The worker of a process of Ray, which does many tasks, by what it was given."""


def encode_with_ray_tasks(load: LoadSettings, device: str, processes: int | None) -> None:
    """Encode a folder with Ray tasks, on the cluster of RAY_ADDRESS or on this machine.

    Args:
        load: Builds the settings.
        device: auto, cpu or cuda; a task on a GPU takes a whole one.
        processes: Tasks at one time; None for as many as the cluster has GPUs or cores.

    Raises:
        OmniError: If something is missing or damaged, or a shard's tasks die `MAX_ATTEMPTS` times.
    """
    import ray

    is_gpu = resolve_device(device).type == "cuda"
    ray.init(
        include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": _task_environment()}
    )
    try:
        resource = "GPU" if is_gpu else "CPU"
        most = processes or max(1, int(ray.cluster_resources().get(resource, 1)))
        options = {"num_cpus": 1, "num_gpus": int(is_gpu), "max_retries": 0}
        _TaskDriver(ray, load, device, options, most).run_plan()
    finally:
        ray.shutdown()


def _task_environment() -> dict[str, str]:
    """Return what tasks need of this process's environment; Ray's `num_cpus` limits no threads."""
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    return {"OMP_NUM_THREADS": "1", **paths}


class _TaskDriver:
    """Starts tasks, at most so many at one time, and counts their attempts."""

    def __init__(
        self, ray: Any, load: LoadSettings, device: str, options: dict[str, Any], most: int
    ) -> None:
        self.ray, self.most, self.given = ray, most, (load, device)
        self.task = ray.remote(**options)(_run_task)

    def run_plan(self) -> None:
        """Do all steps of the plan, phase by phase."""
        (found,) = self._run_jobs([None])
        if not found:
            return
        plan = Plan(**found)
        for phase in plan.phases():
            self._run_jobs(phase)
            if phase:
                log.info("encoding: %d %s shards are finished", len(phase), phase[0].kind)
        self._run_jobs(["finish"])

    def _run_jobs(self, jobs: Sequence[Step | str | None]) -> list[Any]:
        """Do jobs in any order; return what they return."""
        waiting = deque(jobs)
        running: dict[Any, Step | str | None] = {}
        attempts: Counter[Step | str | None] = Counter()
        results = []
        while waiting or running:
            while waiting and len(running) < self.most:
                job = waiting.popleft()
                attempts[job] += 1
                running[self.task.remote(*self.given, job)] = job
            (done,), _ = self.ray.wait(list(running), num_returns=1)
            job = running.pop(done)
            try:
                results.append(self.ray.get(done))
            except self.ray.exceptions.RayTaskError as error:  # the task's own, as again next time
                cause = getattr(error, "cause", None) or error  # as text the error is a traceback
                raise sentence_behind(cause) or error from None
            except self.ray.exceptions.RayError as error:
                if attempts[job] == MAX_ATTEMPTS:
                    raise _attempts_exhausted_error(error, job) from error
                log.warning("a task has died (%s); its shard is tried again", type(error).__name__)
                waiting.append(job)
        return results


def _attempts_exhausted_error(error: Exception, job: Step | str | None) -> OmniError:
    name = job.name if isinstance(job, Step) else "the plan"
    return OmniError(
        f"{MAX_ATTEMPTS} tasks for {name} have died, the last of {type(error).__name__}; give the "
        "tasks more memory, or take --executor local to see why"
    )


def _run_task(load: LoadSettings, device: str, job: Step | str | None) -> Any:
    """Do a step and return its digest, or finish, or return the plan; {} if all is there."""
    given = pickle.dumps((load, device))
    if given not in _workers:
        for worker in _workers.values():
            worker.close()
        _workers.clear()
        _workers[given] = Worker(load(), process_device(device, 0), is_shown=False)
    worker = _workers[given]
    if worker.is_complete():
        return {}
    if job is None:
        worker.agree_on_plan()
        return asdict(worker.plan)
    if isinstance(job, Step):
        return worker.run_step(job)
    worker.finish_folder()
    return {}
