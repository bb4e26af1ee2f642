"""LibriSpeech: `SPLIT/SPEAKER/CHAPTER/ID.flac` and `SPEAKER-CHAPTER.trans.txt`."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.corpora.entries import Entry, TranscribedSpeech, UnusableEntry
from data_prep.corpora.source_files import find_files
from data_prep.corpora.text_files import read_text, split_lines
from lightning_omni.argument_checks import is_blank
from lightning_omni.data.storage.locations import Location


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every utterance below `source`, in lower case."""
    for transcript in find_files(source, (".txt",)):
        if not transcript.name.endswith(".trans.txt"):
            continue
        speaker = transcript.name.split("-")[0]
        for number, line in enumerate(split_lines(read_text(transcript)), 1):
            origin = f"{transcript}:{number}"
            name, _, words = line.partition(" ")
            if is_blank(words) or is_blank(name) or "/" in name:
                yield UnusableEntry(origin, "no name or no words; wanted 'ID WORDS'")
                continue
            sound = transcript.with_name(f"{name}.flac")
            yield TranscribedSpeech(origin, sound, words.lower(), f"speaker-{speaker}")
