"""LibriTTS: `SPLIT/SPEAKER/CHAPTER/ID.wav` beside `ID.normalized.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.corpora.entries import Entry, Transcribed
from data_prep.corpora.files import beside, with_suffix


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield every utterance below `source`."""
    for path in with_suffix(source, (".wav",)):
        speaker = path.name.split("_")[0]
        yield Transcribed(str(path), path, beside(path, ".normalized.txt"), f"speaker-{speaker}")
