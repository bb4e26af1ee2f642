"""LibriSpeech: `SPLIT/SPEAKER/CHAPTER/ID.flac` and `SPEAKER-CHAPTER.trans.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.corpora.entries import Entry, Transcribed
from data_prep.corpora.files import with_suffix
from lightning_omni.errors import OmniError


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield every utterance below `source`, in lower case."""
    for transcript in with_suffix(source, (".txt",)):
        if not transcript.name.endswith(".trans.txt"):
            continue
        speaker = transcript.name.split("-")[0]
        for number, line in enumerate(transcript.read_text("utf-8").splitlines(), 1):
            name, _, words = line.partition(" ")
            if not words:
                raise OmniError(f"'{transcript}' line {number} has no words; wanted 'ID WORDS'")
            sound = transcript.with_name(f"{name}.flac")
            yield Transcribed(f"{transcript}:{number}", sound, words.lower(), f"speaker-{speaker}")
