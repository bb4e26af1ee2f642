"""Encode with the processes that torchrun has started, on any number of machines."""

from __future__ import annotations

import os

from lightning_omni.data.encoding.executors import LoadSettings
from lightning_omni.data.encoding.executors.processes import process_device
from lightning_omni.data.encoding.worker import Worker, check_part_number
from lightning_omni.errors import OmniError


def encode_rank(load: LoadSettings, device: str) -> None:
    """Do this rank's part of an encoding; ranks meet in the folder and need no process group.

    Args:
        load: Builds the settings.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        OmniError: If torchrun did not start this process, or something is missing or damaged.
    """
    try:
        rank, world_size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    except (KeyError, ValueError) as error:
        raise OmniError(
            "the executor torchrun needs RANK and WORLD_SIZE; start the command as `torchrun "
            "--standalone --nproc_per_node 8 -m lightning_omni encode ...`, or take "
            "--executor local"
        ) from error
    check_part_number(rank, world_size)
    used = process_device(device, int(os.environ.get("LOCAL_RANK", rank)))
    worker = Worker(load(), used, part=rank, parts=world_size, is_shown=rank == 0)
    try:
        if not worker.is_complete():
            worker.encode_folder()
    finally:
        worker.close()
