"""Encode one part of a folder, as an element of a Slurm array does."""

from __future__ import annotations

import logging
import os

from lightning_omni.data.encoding.executors import LoadSettings
from lightning_omni.data.encoding.executors.processes import process_device
from lightning_omni.data.encoding.worker import Worker, check_part_number
from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

_ID, _FIRST, _COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"


def encode_array_element(
    load: LoadSettings, device: str, part: int | None, parts: int | None
) -> bool:
    """Encode the media shards of one part; the last part to do so finishes the folder.

    Elements need not run at the same time: none waits for media shards of another.

    Args:
        load: Builds the settings.
        device: auto, cpu, cuda or cuda:N.
        part: Part, counted from 0; None for Slurm's.
        parts: Number of parts; None for Slurm's.

    Returns:
        Whether the folder is complete.

    Raises:
        OmniError: If the part is none of the parts, or something is missing or damaged.
    """
    part, parts = _resolve_part(part, parts)
    check_part_number(part, parts)
    worker = Worker(load(), process_device(device, 0), part=part, parts=parts)
    try:
        if worker.is_complete() or worker.encode_folder(own_media_only=True):
            log.info("the codes in %s are complete", worker.folder)
            return True
    finally:
        worker.close()
    log.info("part %d of %d is done; the last part to finish completes the folder", part, parts)
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
