"""BLIP3o: WebDataset tars of `KEY.jpg` and `KEY.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_prep.corpora.entries import Captioned, Entry, entry_or_reason
from data_prep.corpora.files import files_with_suffix
from lightning_omni.data.shards import read_shard
from lightning_omni.errors import OmniError


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield every captioned image of every tar below `source`."""
    for path in files_with_suffix(source, (".tar",)):
        for key, files in read_shard(path):
            origin = f"{path}:{key}"
            yield entry_or_reason(origin, partial(_captioned, files, origin))


def _captioned(files: dict[str, bytes], origin: str) -> Captioned:
    picture = files.get("jpg") or files.get("png")
    if picture is None or "txt" not in files:
        raise OmniError(f"'{origin}' needs a jpg and a txt, has {sorted(files)}")
    try:
        caption = files["txt"].decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise OmniError(f"the caption of '{origin}' is not UTF-8 ({error})") from error
    return Captioned(origin, picture, caption)
