"""A folder of pictures, each with its caption in a `.txt` of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.corpora.entries import Captioned, Entry, attempt
from data_prep.corpora.files import PICTURES, beside, with_suffix


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield every picture below `source`."""
    for path in with_suffix(source, PICTURES):
        yield attempt(str(path), partial(_captioned, path))


def _captioned(path: Path) -> Captioned:
    return Captioned(str(path), path, beside(path, ".txt"))
