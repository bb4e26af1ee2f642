"""JourneyDB: `train_anno_realease_repath.jsonl` beside `imgs/`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from data_prep.corpora.entries import CaptionedImage, DeferredEntry, Entry
from data_prep.corpora.text_files import read_json_lines
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.files import parse_json_object

ANNOTATIONS = "train_anno_realease_repath.jsonl"  # the spelling of the release


def read(source: Location, *, split: str) -> Iterator[Entry]:
    """Yield every annotated image with its caption, or its prompt if it has no caption."""
    path = source / ANNOTATIONS
    for number, line in read_json_lines(path):
        origin = f"{path}:{number}"
        yield DeferredEntry(origin, partial(_line_to_captioned_image, source, line, origin))


def _line_to_captioned_image(source: Location, line: bytes, origin: str) -> CaptionedImage:
    plain = parse_json_object(line, name=f"'{origin}'")
    task = plain.get("Task2") or {}
    caption = (task.get("Caption") if isinstance(task, dict) else None) or plain.get("prompt")
    if not caption or not plain.get("img_path"):
        raise OmniError(f"'{origin}' needs img_path and a prompt or caption")
    picture = source / "imgs" / str(plain["img_path"]).removeprefix("./")
    return CaptionedImage(origin, picture, str(caption).strip())
