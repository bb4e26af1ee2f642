"""Common Voice: `clips/*.mp3` listed by `train.tsv`, `dev.tsv` and `test.tsv`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import DeferredEntry, Entry, TranscribedSpeech
from data_prep.corpora.text_files import read_tsv, required_value
from lightning_omni.data.storage.locations import Location

_TABLES = {"train": "train.tsv", "val": "dev.tsv"}
_COLUMNS = ("client_id", "path", "sentence")


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield the utterances of the table of `split`; all test splits read `test.tsv`."""
    path = source / _TABLES.get(split, "test.tsv")
    for number, row in read_tsv(path, _COLUMNS):
        origin = f"{path}:{number}"
        yield DeferredEntry(origin, partial(_row_to_utterance, source, row, origin))


def _row_to_utterance(source: Location, row: dict[str, str], origin: str) -> TranscribedSpeech:
    client, clip, sentence = (
        required_value(row, column, name=f"'{origin}'") for column in _COLUMNS
    )
    return TranscribedSpeech(origin, source / "clips" / clip, sentence, f"client-{client[:12]}")
