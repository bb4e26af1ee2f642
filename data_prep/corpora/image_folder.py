"""A folder of images, each with its caption in a `.txt` file of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import Captioned, Entry, entry_or_reason
from data_prep.corpora.files import IMAGE_SUFFIXES, files_with_suffix, read_sidecar
from lightning_omni.data.storage.locations import Location


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every image below `source`."""
    for path in files_with_suffix(source, IMAGE_SUFFIXES):
        yield entry_or_reason(str(path), partial(_captioned, path))


def _captioned(path: Location) -> Captioned:
    return Captioned(str(path), path, read_sidecar(path, ".txt"))
