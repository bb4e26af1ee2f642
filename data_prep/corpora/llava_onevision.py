"""LLaVA-OneVision: `{image, conversations}` as a JSON list beside images, or as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_prep.corpora.entries import Entry, Unusable, VisualQuestion
from data_prep.corpora.files import files_with_suffix, read_text
from lightning_omni.errors import OmniError

_ROWS = 256
Record = tuple[str, Path | bytes, Any]


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield each question-answer pair of each conversation about an image.

    Args:
        source: JSON file, whose image paths are relative to its folder; or a Parquet file or a
            folder of them, which contain the images.
        split: Not used; the release has one split.
    """
    is_parquet = source.is_dir() or source.suffix == ".parquet"
    records = _parquet(source) if is_parquet else _json(source)
    for location, picture, turns in records:
        if not isinstance(turns, list):
            yield Unusable(location, "conversations are not a list")
            continue
        for question, answer in pairwise(turns):
            if not all(isinstance(turn, dict) and "value" in turn for turn in (question, answer)):
                yield Unusable(location, "a turn has no from and value")
                continue
            if (question.get("from"), answer.get("from")) == ("human", "gpt"):
                text = str(question["value"]).replace("<image>", "").strip()
                yield VisualQuestion(location, picture, text, str(answer["value"]))


def _json(source: Path) -> Iterator[Record]:
    if not source.is_file():
        raise OmniError(f"no file '{source}'; give the JSON file of the conversations")
    try:
        records = json.loads(read_text(source))
    except json.JSONDecodeError as error:
        raise OmniError(f"'{source}' is not JSON ({error})") from error
    if not isinstance(records, list):
        raise OmniError(f"'{source}' holds a JSON {type(records).__name__}, wanted a list")
    for number, record in enumerate(records):
        location = f"{source}[{number}]"
        if not isinstance(record, dict):
            yield location, b"", record
        elif "image" in record:
            yield location, source.parent / str(record["image"]), record.get("conversations", [])


def _parquet(source: Path) -> Iterator[Record]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise OmniError(
            "Parquet needs the parquet extra; pip install 'lightning-omni[parquet]'"
        ) from error
    paths = files_with_suffix(source, (".parquet",)) if source.is_dir() else [source]
    for path in map(_existing, paths):
        try:
            yield from _parquet_rows(ParquetFile(path), path)
        except ArrowException as error:
            raise OmniError(f"'{path}' is not readable Parquet ({error}); copy it again") from error


def _parquet_rows(file: Any, path: Path) -> Iterator[Record]:
    missing = {"image", "conversations"} - set(file.schema_arrow.names)
    if missing:
        raise OmniError(f"'{path}' has no column '{min(missing)}'")
    number = 0
    for batch in file.iter_batches(_ROWS, columns=["image", "conversations"]):
        for row in batch.to_pylist():
            if row["image"] is not None:
                # an image without bytes is counted as unreadable
                raw = row["image"].get("bytes") or b""
                yield f"{path}[{number}]", raw, row["conversations"] or []
            number += 1


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise OmniError(f"no file '{path}'; give a Parquet file or a folder of them")
    return path
