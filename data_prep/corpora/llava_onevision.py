"""LLaVA-OneVision: `{image, conversations}` as a JSON list beside images, or as Parquet.

A record without a picture is a question in words. A `video` is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from data_prep.corpora.entries import (
    ContentPart,
    Conversation,
    Entry,
    UnusableEntry,
    UsableEntry,
    VisualQuestion,
    make_entry,
)
from data_prep.corpora.file_parts import FilePart
from data_prep.corpora.json_list import read_json_items
from data_prep.corpora.parquet import PARQUET_SUFFIXES, parquet_rows, required_column
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError

SUFFIXES = PARQUET_SUFFIXES
_COLUMNS = ("image", "conversations")
_USER, _ASSISTANT = ("human", "user"), ("gpt", "assistant")

Picture = Location | bytes | None
Record = tuple[str, Picture, Any] | UnusableEntry
"""Origin, picture and turns; or why the record is left out."""


def read(
    source: Location, *, split: str, folder: Location | None = None, part: FilePart | None = None
) -> Iterator[Entry]:
    """Yield each question-answer pair of each conversation.

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


def _iter_questions(location: str, picture: Picture, turns: Any) -> Iterator[Entry]:
    if not isinstance(turns, list):
        yield UnusableEntry(location, "conversations are not a list")
        return
    count = 0
    for question, answer in pairwise(turns):
        roles = _turn_value(question, "from", "role"), _turn_value(answer, "from", "role")
        if roles[0] in _USER and roles[1] in _ASSISTANT:
            count += 1
            yield make_entry(location, partial(_make_question, location, picture, question, answer))
    if not count:
        yield UnusableEntry(location, "no turn of a human is followed by one of gpt")


def _make_question(location: str, picture: Picture, question: Any, answer: Any) -> UsableEntry:
    asked = _turn_text(question).replace("<image>", "").strip()
    said = _turn_text(answer)
    if picture is not None:
        return VisualQuestion(location, picture, asked, said)
    turns = (("user", (ContentPart("text", asked),)), ("assistant", (ContentPart("text", said),)))
    return Conversation(location, "tqa", turns)


def _turn_value(turn: Any, *names: str) -> Any:
    """Return the value under the first of the names that a turn has."""
    return next((turn[n] for n in names if n in turn), None) if isinstance(turn, dict) else None


def _turn_text(turn: Any) -> str:
    value = _turn_value(turn, "value", "content")
    if value is not None and not isinstance(value, str | int | float):
        raise OmniError(f"a turn has the value {str(value)[:40]!r}, wanted text")
    return "" if value is None else str(value).strip()


def _read_json_conversations(source: Location) -> Iterator[Record]:
    if not source.is_file():
        raise OmniError(f"no file '{source}'; give the JSON file of the conversations")
    for number, record in enumerate(read_json_items(source)):
        yield _record_in_json(source.parent, f"{source}[{number}]", record)


def _record_in_json(folder: Location, location: str, record: Any) -> Record:
    if not isinstance(record, dict):
        return UnusableEntry(location, "it is no object")
    if record.get("video"):
        return UnusableEntry(location, "it is about a video, which is not read")
    names = record.get("image") or []
    names = names if isinstance(names, list) else [names]
    if len(names) > 1 or not all(isinstance(name, str) for name in names):
        what = f"{len(names)} images" if len(names) > 1 else f"the image {names[0]!r}"
        return UnusableEntry(location, f"it has {what}, wanted the name of one file")
    picture = folder / names[0] if names else None
    return location, picture, record.get("conversations", [])


def _read_parquet_conversations(source: Location, part: FilePart | None) -> Iterator[Record]:
    for location, row in parquet_rows(source, _choose_columns, part):
        if isinstance(row, UnusableEntry):
            yield row
        else:
            # an image without bytes is counted as unreadable
            picture = None if row["image"] is None else row["image"].get("bytes") or b""
            yield location, picture, row["conversations"] or []


def _choose_columns(names: Sequence[str]) -> list[str]:
    return [required_column(names, (name,), name.rstrip("s") + "s") for name in _COLUMNS]
