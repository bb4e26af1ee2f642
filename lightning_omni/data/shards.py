"""Read the WebDataset shards of a prepared folder, in an order that is a function of the seed."""

from __future__ import annotations

import json
import os
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("WDS_SECURE", "1")  # no shell in URLs, no pickles in tars; read at import

from webdataset.tariterators import group_by_keys, tar_file_expander

from lightning_omni.data.features_store import read_members
from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.types import Sample

MANIFEST = "manifest.json"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Load `manifest.json`.

    Raises:
        OmniError: If the folder was never prepared, or its manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise OmniError(f"no {MANIFEST} in '{folder}'; run `make prep-data` or give another folder")
    return read_json_object(path, remedy="prepare the folder again")


def shard_paths(folder: Path, kind: str, split: str) -> list[Path]:
    """Return the shards `KIND-SPLIT-NNNNNN.tar` in `folder`, sorted; may be empty."""
    return sorted(folder.glob(f"{kind}-{split}-[0-9]*.tar"))


def read_shard(
    path: Path, *, has_known_size: bool = False
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield `(key, {extension: bytes})` in stored order.

    Args:
        path: File of the shard.
        has_known_size: Whether the caller knows the number of keys and notices those lost after a
            corrupt header; otherwise the headers are read first, which doubles the time.

    Raises:
        OmniError: If the tar is broken, or a key is not a plain name.
    """
    try:
        if not has_known_size:
            _check_headers(path)
        with path.open("rb") as stream:
            source = [{"url": str(path), "stream": stream}]
            for item in group_by_keys(tar_file_expander(source)):
                key = str(item["__key__"])
                if not _KEY.fullmatch(key):
                    raise OmniError(
                        f"'{path}' holds the key '{key}'; keys are letters, digits, _ and -"
                    )
                yield key, {k: v for k, v in item.items() if not k.startswith("__")}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise OmniError(
            f"'{path}' is not a readable tar ({error}); prepare the data again"
        ) from error


def _check_headers(path: Path) -> None:
    """Walk the headers to the end: the streaming reader stops silently at a corrupt one."""
    end = 0
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            end = member.offset_data + -(-member.size // 512) * 512
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read()
    if end > size or len(rest) < 1024 or rest.strip(b"\0"):
        raise tarfile.ReadError(f"damaged after byte {end} of {size}")


def medium_of(files: dict[str, bytes], key: str, path: Path) -> bytes:
    """Return the image or recording among a key's files.

    Raises:
        OmniError: If there is none.
    """
    content = next((v for k, v in files.items() if k != "json"), None)
    if content is None:
        raise OmniError(f"'{path}' holds no medium for key '{key}'; prepare the data again")
    return content


def read_samples(folder: Path, task: str, split: str, *, limit: int | None = None) -> list[Sample]:
    """Return the samples of a task and split, in stored order; empty if there are no such shards.

    Args:
        folder: Folder of task shards.
        task: Name of the task.
        split: Name of the split.
        limit: Stop after this many, which leaves later shards unread.
    """
    samples = (
        parse_sample(key, files, path)
        for path in shard_paths(folder, task, split)
        for key, files in read_shard(path)
    )
    return list(islice(samples, limit))


def parse_sample(key: str, files: dict[str, bytes], path: Path) -> Sample:
    """Decode `KEY.json`, and read the speech features stored beside it, if any.

    Raises:
        OmniError: If it is missing or malformed.
    """
    try:
        sample = Sample.from_json(key, json.loads(files["json"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise OmniError(f"sample '{key}' of '{path}' is malformed ({error!r})") from error
    return read_members(sample, files, path)


class SampleStream:
    """An endless, seekable stream of one task's training samples.

    Epoch e visits the shards in an order drawn from (seed, e) and each shard's samples in an order
    drawn from (seed, e, shard), so the n-th sample of the stream is a function of the seed alone.
    """

    def __init__(self, folder: Path, task: str, split: str, *, seed: int) -> None:
        self.paths = shard_paths(folder, task, split)
        if not self.paths:
            raise OmniError(
                f"no shards of task '{task}', split '{split}' in '{folder}'; drop the task from "
                "the recipe or prepare data that has it"
            )
        self.task, self.seed = task, seed
        self._count = 0
        self._counts = _stored_counts(folder)
        self._sizes = [self._size(path) for path in self.paths]
        self._epoch, self._order, self._starts = -1, list[int](), list[int]()
        self._path = self.paths[0]
        self._first, self._items = 0, list[tuple[str, dict[str, bytes]]]()

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""
        return sum(self._sizes)

    def skip(self, count: int) -> None:
        """Advance by `count` samples without reading them."""
        self._count += count

    def __next__(self) -> Sample:
        """Return the next sample."""
        if not (total := len(self)):
            raise OmniError(f"the shards of '{self.task}' hold no samples, first '{self.paths[0]}'")
        epoch, position = divmod(self._count, total)
        self._count += 1
        if epoch != self._epoch:
            self._begin(epoch)
        if not self._first <= position < self._first + len(self._items):
            self._load(bisect_right(self._starts, position) - 1)
        return parse_sample(*self._items[position - self._first], self._path)

    def _begin(self, epoch: int) -> None:
        """Draw the order of the shards of an epoch."""
        self._epoch, self._items = epoch, []
        self._order = list(range(len(self.paths)))
        Random(f"{self.seed}-{self.task}-{epoch}").shuffle(self._order)
        sizes = (self._sizes[shard] for shard in self._order)
        self._starts = list(accumulate(sizes, initial=0))[:-1]

    def _load(self, turn: int) -> None:
        """Read the shard at position `turn` of the epoch's order."""
        shard = self._order[turn]
        path, size = self.paths[shard], self._sizes[shard]
        self._path, self._items = path, list(read_shard(path, has_known_size=True))
        if len(self._items) != size:
            raise OmniError(
                f"'{path}' is damaged: {len(self._items)} of {size} samples can be read; prepare "
                "the data again"
            )
        Random(f"{self.seed}-{self.task}-{self._epoch}-{shard}").shuffle(self._items)
        self._first = self._starts[turn]

    def _size(self, path: Path) -> int:
        """Return the number of samples of a shard, from the manifest or by reading the shard."""
        stored = self._counts.get(path.name)
        return sum(1 for _ in read_shard(path)) if stored is None else stored


def _stored_counts(folder: Path) -> dict[str, int]:
    """Return the number of samples of each shard, from the manifest."""
    if not (folder / MANIFEST).is_file():
        return {}
    counts = read_manifest(folder).get("samples")
    return counts if isinstance(counts, dict) else {}


def mixture(weights: dict[str, float]) -> Iterator[str]:
    """Yield tasks without end; after n of them each came within one of n times its share."""
    total = sum(weights.values())
    served = dict.fromkeys(weights, 0)
    for n in range(1, 1 << 62):
        task = max(weights, key=lambda name: n * weights[name] / total - served[name])
        served[task] += 1
        yield task
