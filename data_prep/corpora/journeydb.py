"""JourneyDB: `train_anno_realease_repath.jsonl` beside `imgs/`, prompts as captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.corpora.entries import Captioned, Entry
from data_prep.corpora.files import json_lines
from lightning_omni.errors import OmniError

ANNOTATIONS = "train_anno_realease_repath.jsonl"  # spelt so in the release


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield every annotated picture; a caption, where there is one, is preferred to the prompt."""
    path = source / ANNOTATIONS
    for number, plain in json_lines(path):
        task = plain.get("Task2") or {}
        caption = task.get("Caption") or plain.get("prompt")
        if not caption or not plain.get("img_path"):
            raise OmniError(f"'{path}' line {number} needs img_path and a prompt or caption")
        picture = source / "imgs" / str(plain["img_path"]).removeprefix("./")
        yield Captioned(f"{path}:{number}", picture, str(caption).strip())
