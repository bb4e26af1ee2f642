"""A folder of recordings, each with its words in a `.txt` of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.corpora.entries import Entry, Transcribed, attempt
from data_prep.corpora.files import SOUNDS, beside, with_suffix


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield every recording below `source`; its folder's name is the voice."""
    for path in with_suffix(source, SOUNDS):
        yield attempt(str(path), partial(_utterance, path))


def _utterance(path: Path) -> Transcribed:
    return Transcribed(str(path), path, beside(path, ".txt"), path.parent.name)
