"""BLIP3o: WebDataset tars of `KEY.jpg` and `KEY.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.corpora.entries import Captioned, Entry
from data_prep.corpora.files import with_suffix
from lightning_omni.data.shards import read_shard
from lightning_omni.errors import OmniError


def read(source: Path, *, split: str) -> Iterator[Entry]:
    """Yield every picture of every tar below `source`."""
    for path in with_suffix(source, (".tar",)):
        for key, files in read_shard(path):
            picture = files.get("jpg") or files.get("png")
            if picture is None or "txt" not in files:
                raise OmniError(f"'{path}' key '{key}' needs a jpg and a txt, has {sorted(files)}")
            yield Captioned(f"{path}:{key}", picture, files["txt"].decode("utf-8").strip())
