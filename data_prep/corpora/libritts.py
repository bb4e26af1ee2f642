"""LibriTTS: `SPLIT/SPEAKER/CHAPTER/ID.wav` beside `ID.normalized.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import DeferredEntry, Entry, TranscribedSpeech
from data_prep.corpora.source_files import find_files
from data_prep.corpora.text_files import read_sidecar
from lightning_omni.data.storage.locations import Location

DESCRIBED = (".wav",)
SIDECAR = ".normalized.txt"
"""The files of a corpus, and the suffix of the text beside each."""


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every utterance below `source`."""
    for path in find_files(source, DESCRIBED):
        yield DeferredEntry(str(path), partial(_read_utterance, path))


def _read_utterance(path: Location) -> TranscribedSpeech:
    words, speaker = read_sidecar(path, SIDECAR), path.name.split("_")[0]
    return TranscribedSpeech(str(path), path, words, f"speaker-{speaker}")
