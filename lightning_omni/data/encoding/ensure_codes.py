"""The codes of a data folder, encoded where they are needed if they are not there yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from lightning_omni.data.encoding.plan import PlanMismatchError
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.encoding.work_folder import remove_work_folder
from lightning_omni.data.encoding.worker import POLL_S, Worker
from lightning_omni.data.shards import MANIFEST
from lightning_omni.data.storage.locations import Location
from lightning_omni.devices import AUTO, resolve_device
from lightning_omni.tokenizers.speech_features import SpeechFeatureEncoder

log = logging.getLogger(__name__)


def ensure_codes(
    data: Location,
    *,
    image_tokenizer: Path,
    speech_tokenizer: Path,
    continuous_speech: SpeechFeatureEncoder | None = None,
    file_tokenizers: Mapping[str, Path] | None = None,
    device: torch.device | None = None,
    request_image_size: int | None = None,
) -> Location:
    """Return the folder of code shards of these tokenizers; encode `data` if it does not exist.

    The folder's name hashes the prepared data and all tokenizers, so shards of another tokenizer
    can never be picked up. With a speech feature encoder the features of the users' speech are
    stored beside the samples, and its hash is part of the name too. Processes that call this at the
    same time divide the work.

    Args:
        data: Folder written by prep-data; at a URL it must be encoded.
        image_tokenizer: Folder of an exported image tokenizer.
        speech_tokenizer: Folder of an exported speech tokenizer.
        continuous_speech: Encoder of speech features; None without continuous speech.
        file_tokenizers: Folders of the tokenizers of further modalities.
        device: Device of the tokenizers; None for a GPU if there is one.
        request_image_size: Side of pictures in requests in pixels; None for the image tokenizer's.

    Raises:
        OmniError: If the data or a tokenizer is missing, a picture of that size has no codes, data
            at a URL are not encoded, or the folder was begun on another kind of device and nobody
            goes on with it.
    """
    settings = EncodingSettings(
        data,
        image_tokenizer,
        speech_tokenizer,
        continuous_speech,
        file_tokenizers or {},
        request_image_size,
    )
    return ensure_encoded(settings, device)


def ensure_encoded(settings: EncodingSettings, device: torch.device | None = None) -> Location:
    """Return the folder of code shards of these settings; see `ensure_codes`."""
    if not (settings.codes_folder / MANIFEST).is_file():
        _encode_in_this_process(settings, device or resolve_device(AUTO))
    elif isinstance(settings.codes_folder, Path):
        remove_work_folder(
            settings.codes_folder
        )  # of a process that was killed behind the manifest
    return settings.codes_folder


def _encode_in_this_process(settings: EncodingSettings, device: torch.device) -> None:
    """Encode a folder in this process, together with others that do."""
    log.info(
        "encoding the media of %s into %s on %s", settings.data, settings.local_codes_folder, device
    )
    worker = Worker(settings, device)
    try:
        worker.encode_folder()
    except PlanMismatchError:
        _wait_for_other_processes(worker)
        if not worker.is_complete():
            raise
    finally:
        worker.close()


def _wait_for_other_processes(worker: Worker) -> None:
    """Wait while other processes encode the folder by another plan."""
    worker.claims.deregister_worker()  # two that wait would wait for each other
    log.info(
        "others encode '%s' by another plan; waiting for them", worker.settings.local_codes_folder
    )
    while not worker.is_complete() and worker.claims.has_other_workers():
        time.sleep(POLL_S)
