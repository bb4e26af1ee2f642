"""The verb `encode`: turn the media of a recipe's data folder into codes."""

from __future__ import annotations

import logging

from lightning_omni.data.encoding.executors import LoadSettings, local, slurm_array, torchrun
from lightning_omni.data.encoding.options import EncodeOptions
from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)


def encode(load: LoadSettings, options: EncodeOptions) -> None:
    """Encode a folder with an executor.

    Args:
        load: Builds the settings, in each process anew.
        options: Executor, processes and device.

    Raises:
        OmniError: If an option does not fit the executor, or something is missing or damaged.
    """
    _check_options(options)
    settings = load()
    log.info("encoding the media of %s into %s", settings.data, settings.local_codes_folder)
    if options.executor == "slurm-array":
        slurm_array.encode_array_element(load, options.device, options.part, options.parts)
        return
    if options.executor == "torchrun":
        torchrun.encode_rank(load, options.device)
    elif options.executor == "ray":
        from lightning_omni.data.encoding.executors import ray_tasks

        ray_tasks.encode_with_ray_tasks(load, options.device, options.processes)
    else:
        local.encode_with_processes(load, options.device, options.processes)


def _check_options(options: EncodeOptions) -> None:
    has_parts = options.part is not None or options.parts is not None
    if has_parts and options.executor != "slurm-array":
        raise OmniError(
            f"--part and --parts belong to --executor slurm-array, not to {options.executor}; "
            "leave them out"
        )
    if options.processes is not None and options.executor in ("torchrun", "slurm-array"):
        raise OmniError(
            f"--processes does not belong to --executor {options.executor}, which has one process "
            "for each rank or element; leave it out"
        )
