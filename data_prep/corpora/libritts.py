"""LibriTTS: `SPLIT/SPEAKER/CHAPTER/ID.wav` beside `ID.normalized.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import DeferredEntry, Entry, TranscribedSpeech
from data_prep.corpora.source_files import find_files
from data_prep.corpora.text_files import read_sidecar
from lightning_omni.data.storage.locations import Location


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every utterance below `source`."""
    for path in find_files(source, (".wav",)):
        yield DeferredEntry(str(path), partial(_read_utterance, path))


def _read_utterance(path: Location) -> TranscribedSpeech:
    words, speaker = read_sidecar(path, ".normalized.txt"), path.name.split("_")[0]
    return TranscribedSpeech(str(path), path, words, f"speaker-{speaker}")
