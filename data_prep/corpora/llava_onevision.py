"""LLaVA-OneVision: a JSON list of `{image, conversations}` beside the pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from data_prep.corpora.entries import Asked, Entry
from lightning_omni.errors import OmniError


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield each question-answer pair of each conversation about a picture.

    Args:
        source: The JSON file; pictures are named relative to its folder.
        split: Not used: the release has one split.
    """
    if not source.is_file():
        raise OmniError(f"no file '{source}'; give the JSON file of the conversations")
    try:
        records = json.loads(source.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise OmniError(f"'{source}' is not JSON ({error})") from error
    for number, record in enumerate(records):
        if "image" not in record:
            continue
        turns = record.get("conversations", [])
        for asked, answered in pairwise(turns):
            if (asked.get("from"), answered.get("from")) == ("human", "gpt"):
                question = str(asked["value"]).replace("<image>", "").strip()
                picture = source.parent / str(record["image"])
                yield Asked(f"{source}[{number}]", picture, question, str(answered["value"]))
