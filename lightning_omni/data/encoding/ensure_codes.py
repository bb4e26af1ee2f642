"""The codes of a data folder, encoded where they are needed if they are not there yet."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from lightning_omni.data.encoding.encoding_job import EncodingJob
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.encoding.work_folder import remove_work_folder
from lightning_omni.data.manifest import MANIFEST
from lightning_omni.data.shard_checks import check_shards
from lightning_omni.data.storage.locations import Location
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.jobs.steps import PlanMismatchError
from lightning_omni.jobs.worker import POLL_S, Worker

log = logging.getLogger(__name__)


def ensure_codes(settings: EncodingSettings, device: torch.device | None = None) -> Location:
    """Return the folder of code shards of a data folder; encode the data if it does not exist.

    The folder's name hashes the prepared data and all tokenizers, so shards of another tokenizer
    can never be picked up. With a speech feature encoder the features of the users' speech are
    stored beside the samples, and its hash is part of the name too. Processes that call this at the
    same time divide the work.

    Args:
        settings: The data and the tokenizers.
        device: Device of the tokenizers; None for a GPU if there is one.

    Raises:
        OmniError: If the data or a tokenizer is missing, a picture of that size has no codes, data
            at a URL are not encoded, the folder was begun on another kind of device and nobody
            goes on with it, or the shards are not those of the manifest.
    """
    codes = settings.codes_folder
    if not (codes / MANIFEST).is_file():
        _encode_in_this_process(settings, device or resolve_device(AUTO))
    elif isinstance(codes, Path):
        remove_work_folder(codes)  # of a process that was killed behind the manifest
    check_shards(codes)
    return codes


def _encode_in_this_process(settings: EncodingSettings, device: torch.device) -> None:
    """Encode a folder in this process, together with others that do."""
    log.info(
        "encoding the media of %s into %s on %s", settings.data, settings.local_codes_folder, device
    )
    worker = Worker(EncodingJob(settings, device))
    try:
        worker.run_job()
    except PlanMismatchError:
        _wait_for_other_processes(worker, settings.local_codes_folder)
        if not worker.is_complete():
            raise
    finally:
        worker.close()


def _wait_for_other_processes(worker: Worker, folder: Path) -> None:
    """Wait while other processes encode the folder by another plan."""
    worker.claims.deregister_worker()  # two that wait would wait for each other
    log.info("others encode '%s' by another plan; waiting for them", folder)
    while not worker.is_complete() and worker.claims.has_other_workers():
        time.sleep(POLL_S)
