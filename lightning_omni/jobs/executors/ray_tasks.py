"""Do a job with tasks of Ray Core, one for each step; only names and digests travel."""

from __future__ import annotations

import logging
import os
import pickle
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lightning_omni.errors import OmniError, find_user_error
from lightning_omni.jobs.job import LoadJob
from lightning_omni.jobs.steps import Step
from lightning_omni.jobs.worker import Worker

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Tasks that are started for a step, whatever ends them: Ray restarts some of them for ever."""
_FINISH = "finish"
_Work = Step | int | str
"""A step to do, the number of a phase whose steps are wanted, or `_FINISH`."""
_workers: dict[bytes, Worker] = {}
"""The worker of a process of Ray, which does many tasks, by what it was given."""


def run_with_ray_tasks(load: LoadJob, processes: int | None, *, has_gpu: bool = False) -> None:
    """Do a job with Ray tasks, on the cluster of RAY_ADDRESS or on this machine.

    Args:
        load: Builds the job.
        processes: Tasks at one time; None for as many as the cluster has GPUs or cores.
        has_gpu: Whether a task takes a whole GPU.

    Raises:
        OmniError: If something is missing or damaged, or a step's tasks die `MAX_ATTEMPTS` times.
    """
    import ray

    environment = {"env_vars": _task_environment()}
    ray.init(include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        resource = "GPU" if has_gpu else "CPU"
        most = processes or max(1, int(ray.cluster_resources().get(resource, 1)))
        options = {"num_cpus": 1, "num_gpus": int(has_gpu), "max_retries": 0}
        _TaskDriver(ray, load, options, most).run_job()
    finally:
        ray.shutdown()


def _task_environment() -> dict[str, str]:
    """Return what tasks need of this process's environment; Ray's `num_cpus` limits no threads."""
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    return {"OMP_NUM_THREADS": "1", **paths}


class _TaskDriver:
    """Starts tasks, at most so many at one time, and counts their attempts."""

    def __init__(self, ray: Any, load: LoadJob, options: dict[str, Any], most: int) -> None:
        self.ray, self.most, self.load = ray, most, load
        self.task = ray.remote(**options)(_run_task)

    def run_job(self) -> None:
        """Do all steps of the job, phase by phase."""
        number = 0
        while (found := self._run_all([number])[0]) is not None:
            number += 1
            steps = [Step(**plain) for plain in found]
            self._run_all(steps)
            if steps:
                log.info("%d steps of %s are finished", len(steps), steps[0].kind)
        self._run_all([_FINISH])

    def _run_all(self, all_work: Sequence[_Work]) -> list[Any]:
        """Do work in any order; return what the tasks return."""
        waiting = deque(all_work)
        running: dict[Any, _Work] = {}
        attempts: Counter[_Work] = Counter()
        results = []
        while waiting or running:
            while waiting and len(running) < self.most:
                work = waiting.popleft()
                attempts[work] += 1
                running[self.task.remote(self.load, work)] = work
            (done,), _ = self.ray.wait(list(running), num_returns=1)
            work = running.pop(done)
            try:
                results.append(self.ray.get(done))
            except self.ray.exceptions.RayTaskError as error:  # the task's own, as again next time
                cause = getattr(error, "cause", None) or error  # as text the error is a traceback
                raise find_user_error(cause) or error from None
            except self.ray.exceptions.RayError as error:
                if attempts[work] == MAX_ATTEMPTS:
                    raise _attempts_exhausted_error(error, work) from error
                log.warning("a task has died (%s); its step is tried again", type(error).__name__)
                waiting.append(work)
        return results


def _attempts_exhausted_error(error: Exception, work: _Work) -> OmniError:
    name = work.name if isinstance(work, Step) else "the plan"
    return OmniError(
        f"{MAX_ATTEMPTS} tasks for {name} have died, the last of {type(error).__name__}; give the "
        "tasks more memory, or take --executor local to see why"
    )


def _run_task(load: LoadJob, work: _Work) -> Any:
    """Do a step and return its digest, or finish, or return a phase's steps; None behind them."""
    given = pickle.dumps(load)
    if given not in _workers:
        for worker in _workers.values():
            worker.close()
        _workers.clear()
        _workers[given] = Worker(load(0), is_shown=False)
    worker = _workers[given]
    if isinstance(work, Step):
        return worker.run_step(work)
    if work == _FINISH:
        worker.finish_job()
        return None
    return _phase_as_dicts(worker, int(work))


def _phase_as_dicts(worker: Worker, number: int) -> list[dict[str, Any]] | None:
    """Return the steps of a phase as they travel; None behind the last."""
    if worker.is_complete():
        return None
    if number == 0:
        worker.agree_on_plan()
    phase = worker.job.phase_steps(number)
    return None if phase is None else [asdict(step) for step in phase]
