"""Do a job with processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from lightning_omni.errors import OmniError
from lightning_omni.jobs.job import LoadJob
from lightning_omni.jobs.worker import Worker
from lightning_omni.stop_signals import children_ignore_interrupts

log = logging.getLogger(__name__)

_MOST_PROCESSES = 8


def run_with_processes(load: LoadJob, processes: int) -> None:
    """Do a job with so many processes; one that is killed leaves its step to the others.

    Args:
        load: Builds the job.
        processes: Number of processes.

    Raises:
        OmniError: If something is missing or damaged, or all processes end before the job is
            complete.
    """
    if processes == 1:
        _run_part(load, 0, 1)
        return
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started: dict[Connection, BaseProcess] = {}
    try:
        for part in range(processes):
            receiver, sender = context.Pipe(duplex=False)
            given = (sender, load, part, processes)
            process: BaseProcess = context.Process(target=_run_part_in_child_process, args=given)
            with children_ignore_interrupts():
                process.start()
            started[receiver] = process
            sender.close()
        _wait_for_processes(dict(started))
    finally:
        for process in started.values():
            process.terminate()
            process.join()


def default_num_processes() -> int:
    """Return one process per CPU core that this process may use, up to 8."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    return min(cores, _MOST_PROCESSES)


def _wait_for_processes(running: dict[Connection, BaseProcess]) -> None:
    """Wait for all processes; raise the error of the first that fails."""
    has_finished = False
    while running:
        ready = wait(list(running))
        for receiver in [one for one in running if one in ready]:
            process = running.pop(receiver)
            try:
                error = receiver.recv()
            except EOFError:
                process.join()
                log.warning("a process has ended with code %s; others go on", process.exitcode)
                continue
            if error is not None:
                raise error
            has_finished = True
    if not has_finished:
        raise OmniError(
            "all processes have ended before the work was complete; look above for the reason "
            "(code -9: out of memory), and start the command again, which goes on"
        )


def _run_part_in_child_process(sender: Connection, load: LoadJob, part: int, parts: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _run_part(load, part, parts)
    except OmniError as error:
        sender.send(error)
    else:
        sender.send(None)


def _run_part(load: LoadJob, part: int, parts: int) -> None:
    worker = Worker(load(part), part=part, parts=parts, is_shown=part == 0)
    try:
        if not worker.is_complete():
            worker.run_job()
    finally:
        worker.close()
