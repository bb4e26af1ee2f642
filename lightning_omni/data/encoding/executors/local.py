"""Encode with processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from lightning_omni.data.encoding.executors import LoadSettings
from lightning_omni.data.encoding.executors.processes import default_num_processes, process_device
from lightning_omni.data.encoding.worker import Worker
from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)


def encode_with_processes(load: LoadSettings, device: str, processes: int | None) -> None:
    """Encode a folder with so many processes; one that is killed leaves its shard to the others.

    Args:
        load: Builds the settings.
        device: auto, cpu, cuda or cuda:N.
        processes: Number of processes; None for one per GPU or core.

    Raises:
        OmniError: If a medium, shard or tokenizer is missing or damaged, or all processes end
            before the folder is complete.
    """
    count = processes or default_num_processes(device)
    if count == 1:
        _encode_part(load, device, 0, 1)
        return
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started: dict[Connection, BaseProcess] = {}
    for part in range(count):
        receiver, sender = context.Pipe(duplex=False)
        given = (sender, load, device, part, count)
        process: BaseProcess = context.Process(target=_encode_in_child_process, args=given)
        process.start()
        sender.close()
        started[receiver] = process
    try:
        _wait_for_processes(dict(started))
    finally:
        for process in started.values():
            process.terminate()
            process.join()


def _wait_for_processes(running: dict[Connection, BaseProcess]) -> None:
    """Wait for all processes; raise the error of the first that fails."""
    has_finished = False
    while running:
        ready = wait(list(running))
        for receiver in [one for one in running if one in ready]:
            process = running.pop(receiver)
            try:
                message = receiver.recv()
            except EOFError:
                process.join()
                log.warning("a process has ended with code %s; others go on", process.exitcode)
                continue
            if message:
                raise OmniError(message)
            has_finished = True
    if not has_finished:
        raise OmniError(
            "all processes have ended before the codes were complete; look above for the reason "
            "(code -9: out of memory), and start the command again, which goes on"
        )


def _encode_in_child_process(
    sender: Connection, load: LoadSettings, device: str, part: int, parts: int
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _encode_part(load, device, part, parts)
    except OmniError as error:
        sender.send(str(error))
    else:
        sender.send("")


def _encode_part(load: LoadSettings, device: str, part: int, parts: int) -> None:
    settings = load()
    worker = Worker(
        settings, process_device(device, part), part=part, parts=parts, is_shown=part == 0
    )
    try:
        if not worker.is_complete():
            worker.encode_folder()
    finally:
        worker.close()
