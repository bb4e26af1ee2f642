"""LLaVA-OneVision: `{image, conversations}` as a JSON list beside images, or as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from data_prep.corpora.entries import Entry, UnusableEntry, VisualQuestion
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.json_list import read_json_items
from data_prep.corpora.parquet import PARQUET_SUFFIXES, parquet_rows, required_column
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError

SUFFIXES = PARQUET_SUFFIXES
_COLUMNS = ("image", "conversations")


def read(
    source: Location, *, split: str, folder: Location | None = None, part: FilePart | None = None
) -> Iterator[Entry]:
    """Yield each question-answer pair of each conversation about an image.

    Args:
        source: JSON file, whose image paths are relative to its folder; or a Parquet file or a
            folder of them, which contain the images.
        split: Not used; the release has one split.
        folder: Not used; Parquet contains the images.
        part: Part of a Parquet file to read; None for all of it.
    """
    is_parquet = source.is_dir() or source.suffix == ".parquet"
    for record in (
        _read_parquet_conversations(source, part)
        if is_parquet
        else _read_json_conversations(source)
    ):
        if isinstance(record, UnusableEntry):
            yield record
        else:
            yield from _iter_questions(*record)


def _iter_questions(location: str, picture: Location | bytes, turns: Any) -> Iterator[Entry]:
    if not isinstance(turns, list):
        yield UnusableEntry(location, "conversations are not a list")
        return
    for question, answer in pairwise(turns):
        if not all(isinstance(turn, dict) and "value" in turn for turn in (question, answer)):
            yield UnusableEntry(location, "a turn has no from and value")
            continue
        if (question.get("from"), answer.get("from")) == ("human", "gpt"):
            text = str(question["value"] or "").replace("<image>", "").strip()
            yield VisualQuestion(location, picture, text, str(answer["value"] or ""))


def _read_json_conversations(
    source: Location,
) -> Iterator[tuple[str, Location | bytes, Any] | UnusableEntry]:
    if not source.is_file():
        raise OmniError(f"no file '{source}'; give the JSON file of the conversations")
    for number, record in enumerate(read_json_items(source)):
        location = f"{source}[{number}]"
        if not isinstance(record, dict):
            yield UnusableEntry(location, "it is no object")
        elif record.get("image"):
            name = record["image"]
            names = name if isinstance(name, list) else [name]
            if len(names) == 1:
                yield location, source.parent / str(names[0]), record.get("conversations", [])
            else:
                yield UnusableEntry(location, f"it has {len(names)} images, wanted one")


def _read_parquet_conversations(
    source: Location, part: FilePart | None
) -> Iterator[tuple[str, Location | bytes, Any] | UnusableEntry]:
    for location, row in parquet_rows(source, _choose_columns, part):
        if isinstance(row, UnusableEntry):
            yield row
        elif row["image"] is not None:
            # an image without bytes is counted as unreadable
            yield location, row["image"].get("bytes") or b"", row["conversations"] or []


def _choose_columns(names: Sequence[str]) -> list[str]:
    return [required_column(names, (name,), name.rstrip("s") + "s") for name in _COLUMNS]
