"""The code features of a folder of codes: codebook vectors that embeddings of codes start from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from lightning_omni.data.encoding.work_folder import WORK
from lightning_omni.data.manifest import read_manifest
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.jobs.work_folder import write_when_complete

FEATURES_FILE = "features.safetensors"
FEATURES_SHA256 = "features_sha256"
"""Entry of the manifest with the checksum of the file."""


def save_code_features(folder: Path, features: Mapping[str, Tensor]) -> None:
    """Write the code features of each modality, Float[num_codes, F], into a folder of codes."""
    with write_when_complete(folder / FEATURES_FILE, folder / WORK) as partial:
        plain = {k: v.detach().float().cpu().contiguous() for k, v in features.items()}
        try:
            save_file(plain, partial)
        except SafetensorError as error:  # of the disk, as tensors of floats can be written
            raise OSError(None, str(error), str(folder / FEATURES_FILE)) from error


def load_code_features(folder: Location) -> dict[str, Tensor]:
    """Return the code features of each modality, Float[num_codes, F], as its tokenizer has them.

    Raises:
        OmniError: If the file is damaged.
    """
    return load(_read_checked(folder))


def check_code_features(folder: Location) -> None:
    """Check the file of code features against the manifest of its folder.

    Raises:
        OmniError: If it is missing or has other contents than are listed.
    """
    _read_checked(folder)


def _read_checked(folder: Location) -> bytes:
    path = folder / FEATURES_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OmniError(
            f"cannot read '{path}' ({error.strerror}); delete the folder and encode again"
        ) from error
    listed = read_manifest(folder).get(FEATURES_SHA256)
    if listed is not None and hashlib.sha256(content).hexdigest() != listed:
        raise OmniError(
            f"'{path}' has other contents than its manifest lists (its SHA-256 differs); restore "
            "it, or delete the folder and encode again"
        )
    return content
