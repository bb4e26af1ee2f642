"""Common Voice: `clips/*.mp3` listed by `train.tsv`, `dev.tsv` and `test.tsv`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.corpora.entries import Entry, Transcribed
from data_prep.corpora.files import table

_TABLES = {"train": "train.tsv", "val": "dev.tsv"}


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield the utterances of the table that belongs to `split`; test splits read `test.tsv`."""
    path = source / _TABLES.get(split, "test.tsv")
    for number, row in table(path, ("client_id", "path", "sentence")):
        sound = source / "clips" / row["path"]
        voice = f"client-{row['client_id'][:12]}"
        yield Transcribed(f"{path}:{number}", sound, row["sentence"], voice)
