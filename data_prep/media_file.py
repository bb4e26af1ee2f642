"""A file of the media shards, before it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


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
