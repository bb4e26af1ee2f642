"""LibriTTS: `SPLIT/SPEAKER/CHAPTER/ID.wav` beside `ID.normalized.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import Entry, Transcribed, entry_or_reason
from data_prep.corpora.files import files_with_suffix, read_sidecar
from lightning_omni.data.storage.locations import Location


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every utterance below `source`."""
    for path in files_with_suffix(source, (".wav",)):
        yield entry_or_reason(str(path), partial(_utterance, path))


def _utterance(path: Location) -> Transcribed:
    words, speaker = read_sidecar(path, ".normalized.txt"), path.name.split("_")[0]
    return Transcribed(str(path), path, words, f"speaker-{speaker}")
