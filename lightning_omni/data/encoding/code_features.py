"""The code features of a folder of codes: codebook vectors that embeddings of codes start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, load_file, save_file
from torch import Tensor

from lightning_omni.data.encoding.work_folder import WORK
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.storage.urls import Url
from lightning_omni.jobs.work_folder import write_when_complete

FEATURES_FILE = "features.safetensors"


def save_code_features(folder: Path, features: Mapping[str, Tensor]) -> None:
    """Write the code features of each modality, Float[num_codes, F], into a folder of codes."""
    with write_when_complete(folder / FEATURES_FILE, folder / WORK) as partial:
        save_file({k: v.detach().float().cpu().contiguous() for k, v in features.items()}, partial)


def load_code_features(folder: Location) -> dict[str, Tensor]:
    """Return the code features of each modality, Float[num_codes, F], as its tokenizer has them."""
    if isinstance(folder, Url):
        return load((folder / FEATURES_FILE).read_bytes())
    return load_file(folder / FEATURES_FILE)
