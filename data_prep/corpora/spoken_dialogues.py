"""Parquet files of spoken questions and answers, as VoiceAssistant-400K is published.

A row has `question`, its recording `question_audio` (a struct of `bytes` and `path`), `answer`, and
the spoken answer in `answer_snac`: SNAC codes at 24 kHz as text, seven per frame after each `#`,
which the package `snac` decodes. Copies of it have the sound in `answer_audio`, which is taken
where it exists. Each row is one exchange, whatever `round` says. Layout: the card of
huggingface.co/datasets/gpt-omni/VoiceAssistant-400K.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_prep.corpora.entries import Entry, SpokenQuestion
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.parquet import (
    PARQUET_SUFFIXES,
    Row,
    first_present_column,
    parquet_entries_with_files,
    read_media_cell,
    required_column,
)
from data_prep.speech.snac_codes import check_snac_is_installed, decode_snac_to_wav
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError

SUFFIXES = PARQUET_SUFFIXES
_SOUND, _CODES = "answer_audio", "answer_snac"
_VOICES = ("speaker-unknown", "speaker-assistant")


def read(
    source: Location, *, split: str, folder: Location | None = None, part: FilePart | None = None
) -> Iterator[Entry]:
    """Yield every exchange of a Parquet file, or of the files below a folder."""
    yield from parquet_entries_with_files(
        source, folder, _choose_columns, _row_to_spoken_question, part
    )


def _choose_columns(names: Sequence[str]) -> list[str]:
    answer = required_column(names, (_SOUND, _CODES), "spoken answers")
    if answer == _CODES:
        check_snac_is_installed()
    words = [required_column(names, (name,), f"{name}s") for name in ("question", "answer")]
    sound = required_column(names, ("question_audio",), "spoken questions")
    return [*words, sound, answer]


def _row_to_spoken_question(folder: Location, origin: str, row: Row) -> SpokenQuestion:
    for name in ("question", "answer"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise OmniError(f"'{origin}' has no {name} in words")
    asked = read_media_cell(row["question_audio"], folder, origin)
    if first_present_column(list(row), (_SOUND,)):
        answered = read_media_cell(row[_SOUND], folder, origin)
    else:
        answered = decode_snac_to_wav(str(row[_CODES] or ""), origin)
    question, answer = row["question"].strip(), row["answer"].strip()
    return SpokenQuestion(origin, asked, question, answered, answer, *_VOICES)
