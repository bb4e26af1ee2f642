"""BLIP3o: WebDataset tars of `KEY.jpg` and `KEY.txt`."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.corpora.entries import Entry
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.img2dataset import make_captioned_image
from data_prep.corpora.tars import TAR_SUFFIXES, tar_entries
from lightning_omni.data.storage.locations import Location

SUFFIXES = TAR_SUFFIXES


def read(
    source: Location, *, split: str, folder: Location | None = None, part: FilePart | None = None
) -> Iterator[Entry]:
    """Yield every captioned image of a tar, or of every tar below a folder."""
    yield from tar_entries(source, make_captioned_image, part)
