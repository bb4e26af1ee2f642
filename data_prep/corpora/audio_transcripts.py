"""A folder of recordings, each with its transcript in a `.txt` file of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import DeferredEntry, Entry, TranscribedSpeech
from data_prep.corpora.source_files import (
    AUDIO_SUFFIXES,
    UNREAD_AUDIO,
    check_is_read,
    find_files,
)
from data_prep.corpora.text_files import read_sidecar
from lightning_omni.data.storage.locations import Location

DESCRIBED = AUDIO_SUFFIXES + UNREAD_AUDIO
SIDECAR = ".txt"
"""The files of a corpus, and the suffix of the text beside each."""


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every recording below `source`; the name of its folder is the voice."""
    for path in find_files(source, DESCRIBED):
        yield DeferredEntry(str(path), partial(_read_utterance, path))


def _read_utterance(path: Location) -> TranscribedSpeech:
    check_is_read(path, UNREAD_AUDIO, "WAV or FLAC")
    return TranscribedSpeech(str(path), path, read_sidecar(path, SIDECAR), path.parent.name)
