"""A folder of recordings, each with its transcript in a `.txt` file of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import Entry, Transcribed, entry_or_reason
from data_prep.corpora.files import AUDIO_SUFFIXES, files_with_suffix, read_sidecar
from lightning_omni.data.storage.locations import Location


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every recording below `source`; the name of its folder is the voice."""
    for path in files_with_suffix(source, AUDIO_SUFFIXES):
        yield entry_or_reason(str(path), partial(_utterance, path))


def _utterance(path: Location) -> Transcribed:
    return Transcribed(str(path), path, read_sidecar(path, ".txt"), path.parent.name)
