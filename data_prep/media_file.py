"""A file of the media shards, before it is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lightning_omni.errors import OmniError

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file of the media shards.

    Attributes:
        key: Unique key within its modality and split.
        modality: `image` or `speech`.
        extension: File extension without dot.
        info: Facts stored as JSON beside the file.
        load: Returns the bytes; called when the shard is written.
    """

    key: str
    modality: str
    extension: str
    info: dict[str, Any]
    load: Callable[[], bytes] = field(repr=False)


def check_key(key: str) -> None:
    """Reject a key that is no plain name.

    Raises:
        OmniError: If the key is malformed.
    """
    if KEY_PATTERN.fullmatch(key) is None:
        raise OmniError(f"key '{key}' is malformed; wanted 1 to 128 of A-Z a-z 0-9 _ -")
