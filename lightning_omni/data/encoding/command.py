"""The verb `encode`: turn the media of a recipe's data folder into codes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from lightning_omni.data.encoding.encoding_job import EncodingJob
from lightning_omni.data.encoding.options import EncodeOptions
from lightning_omni.data.encoding.process_devices import default_num_processes, process_device
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.encoding.work_folder import remove_work_folder
from lightning_omni.data.manifest import MANIFEST, read_manifest
from lightning_omni.devices import resolve_device
from lightning_omni.jobs.options import ExecutorOptions
from lightning_omni.jobs.run_job import run_job

log = logging.getLogger(__name__)

LoadSettings = Callable[[], EncodingSettings]
"""Builds the settings in the process that calls it; can be pickled."""


def encode(load: LoadSettings, options: EncodeOptions) -> None:
    """Encode a folder with an executor.

    Args:
        load: Builds the settings, in each process anew.
        options: Executor, processes and device.

    Raises:
        OmniError: If an option does not fit the executor, or something is missing or damaged.
    """
    executor = ExecutorOptions(options.executor, options.processes, options.part, options.parts)
    settings = load()
    folder = settings.local_codes_folder
    if (folder / MANIFEST).is_file() and executor.executor in ("local", "ray"):
        remove_work_folder(folder)  # of a process that was killed behind the manifest
        log.info("the media of %s are encoded, in %s", settings.data, folder)
        return
    log.info("encoding the media of %s into %s", settings.data, folder)
    run_job(
        partial(load_encoding_job, load, options.device),
        executor,
        processes=default_num_processes(options.device),
        has_gpu=resolve_device(options.device).type == "cuda",
    )
    if (folder / MANIFEST).is_file():
        samples = read_manifest(folder)["samples"]
        log.info("%d samples in %d shards, in %s", sum(samples.values()), len(samples), folder)


def load_encoding_job(load: LoadSettings, device: str, index: int) -> EncodingJob:
    """Return the encoding of a folder on the device of a machine's process."""
    return EncodingJob(load(), process_device(device, index))
