"""A folder of images, each with its caption in a `.txt` file of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import CaptionedImage, DeferredEntry, Entry
from data_prep.corpora.source_files import (
    IMAGE_SUFFIXES,
    UNREAD_IMAGES,
    check_is_read,
    find_files,
)
from data_prep.corpora.text_files import read_sidecar
from lightning_omni.data.storage.locations import Location

DESCRIBED = IMAGE_SUFFIXES + UNREAD_IMAGES
SIDECAR = ".txt"
"""The files of a corpus, and the suffix of the text beside each."""


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every image below `source`."""
    for path in find_files(source, DESCRIBED):
        yield DeferredEntry(str(path), partial(_read_captioned_image, path))


def _read_captioned_image(path: Location) -> CaptionedImage:
    check_is_read(path, UNREAD_IMAGES, "PNG, JPEG or WebP")
    return CaptionedImage(str(path), path, read_sidecar(path, SIDECAR))
