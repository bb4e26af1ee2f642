"""Image-text tars as img2dataset writes them, the tool that downloads LAION.

`00000.tar` holds `KEY.jpg`, `KEY.txt` and `KEY.json` for each picture that could be downloaded
(`webp` or `png` with other settings); `00000.parquet` and `00000_stats.json` beside it list the
failures too and are not read. Layout: the writer of github.com/rom1504/img2dataset.
"""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.corpora.entries import CaptionedImage, Entry
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.tars import TAR_SUFFIXES, Files, decode_text, find_required_file, tar_entries
from lightning_omni.data.storage.locations import Location

SUFFIXES = TAR_SUFFIXES
_PICTURES = ("jpg", "jpeg", "jfif", "png", "webp")


def read(
    source: Location, *, split: str, folder: Location | None = None, part: FilePart | None = None
) -> Iterator[Entry]:
    """Yield every picture of a tar, or of the tars below a folder, with its caption."""
    yield from tar_entries(source, make_captioned_image, part)


def make_captioned_image(origin: str, files: Files) -> CaptionedImage:
    """Make an entry of a picture and a `txt`.

    Raises:
        OmniError: If one of them is missing, or the caption is not UTF-8.
    """
    caption = decode_text(find_required_file(files, ("txt",), origin), origin)
    return CaptionedImage(origin, find_required_file(files, _PICTURES, origin), caption)
