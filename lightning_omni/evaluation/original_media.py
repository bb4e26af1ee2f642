"""Read the original pictures and recordings of a prepared data folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.data.manifest import read_shard_list
from lightning_omni.data.media import read_audio, read_image
from lightning_omni.data.shards import read_shard, shard_names
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Recording:
    """Speech at `SAMPLE_RATE`, and its transcript if known."""

    wave: NDArray[np.float32]
    text: str | None


def read_images(data: Location, keys: set[str]) -> dict[str, Image.Image]:
    """Read pictures of a prepared data folder by key."""
    return {key: read_image(raw, name=key) for key, raw, _ in _read_media(data, "image", keys)}


def read_speech(data: Location, keys: set[str]) -> dict[str, Recording]:
    """Read recordings of a prepared data folder by key, at `SAMPLE_RATE`."""
    return {
        key: Recording(read_audio(raw, sample_rate=SAMPLE_RATE, name=key), facts.get("text"))
        for key, raw, facts in _read_media(data, "speech", keys)
    }


def _read_media(
    data: Location, kind: str, keys: set[str]
) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    missing = set(keys)
    folder = data / "media"
    listed = read_shard_list(folder) or {}
    for name in [n for n in shard_names(folder) if n.startswith(f"{kind}-")]:
        if not missing:
            return
        for key, files in read_shard(folder / name, listed.get(name)):
            if key in missing:
                missing.discard(key)
                content = next(raw for name, raw in files.items() if name != "json")
                yield key, content, json.loads(files.get("json", b"{}"))
    if missing:
        raise OmniError(
            f"no {kind} for key '{min(missing)}' in '{data / 'media'}' ({len(missing)} keys are "
            "missing); prepare the data again"
        )
