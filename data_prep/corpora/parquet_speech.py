"""Parquet files of recordings with their words, as Hugging Face's `datasets` writes them.

A row has the recording in `audio`, a struct of `bytes` and `path`; its words in one of the columns
of `TEXTS` and its speaker in one of `SPEAKERS`, where there is one. Published so: GigaSpeech
(`text`, `speaker`), VoxPopuli (`normalized_text`, `speaker_id`), People's Speech (`text`), GLOBE
(`transcript`, `speaker_id`), and LibriHeavy and LibriTTS as others packed them. GigaSpeech's tags
of punctuation become punctuation. Layout: the data set cards on huggingface.co.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_prep.corpora.entries import Entry, TranscribedSpeech
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.parquet import (
    PARQUET_SUFFIXES,
    Row,
    first_present_column,
    parquet_entries_with_files,
    read_media_cell,
    required_column,
)
from data_prep.corpora.transcripts import SPEAKERS, TEXTS, clean_transcript, speaker_voice_name
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError

SUFFIXES = PARQUET_SUFFIXES
_AUDIO = "audio"


def read(
    source: Location, *, split: str, folder: Location | None = None, part: FilePart | None = None
) -> Iterator[Entry]:
    """Yield every row of a Parquet file, or of the files below a folder."""
    yield from parquet_entries_with_files(source, folder, _choose_columns, _row_to_utterance, part)


def _choose_columns(names: Sequence[str]) -> list[str]:
    speaker = first_present_column(names, SPEAKERS)
    required_column(names, TEXTS, "words")
    texts = [name for name in TEXTS if name in names]
    sound = required_column(names, (_AUDIO,), "recordings")
    return [sound, *texts, *([speaker] if speaker else [])]


def _row_to_utterance(folder: Location, origin: str, row: Row) -> TranscribedSpeech:
    sound = read_media_cell(row[_AUDIO], folder, origin)
    words = next((row[name] for name in TEXTS if row.get(name)), None)
    if not isinstance(words, str):
        raise OmniError(f"'{origin}' has no words")
    speaker = next((row[name] for name in SPEAKERS if row.get(name)), None)
    return TranscribedSpeech(
        origin, sound, clean_transcript(words, origin), speaker_voice_name(speaker)
    )
