"""What a data folder holds: samples and tokens of its tasks, files and seconds of its media."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lightning_omni.data.shards import list_shards, parse_sample, read_shard, shard_names
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SPEECH, TEXT
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Sample


@dataclass(slots=True)
class Contents:
    """Samples of a task and split, or media of a modality and split.

    Attributes:
        kind: Task or modality.
        split: Split.
        total: Number of samples or files.
        read: How many of them were read to count what follows.
        tokens: Tokens by modality of those read; text is counted, other media if they are encoded.
        seconds: Seconds of speech of those read; 0 if unknown.
        num_bytes: Bytes of the shards.
    """

    kind: str
    split: str
    total: int
    num_bytes: int
    read: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def extrapolate(self, of_read: float) -> tuple[float, bool]:
        """Return a sum over all, extrapolated from those read, and whether it is exact."""
        return of_read * self.total / max(self.read, 1), self.read >= self.total


def read_task_contents(
    folder: Location, manifest: dict[str, Any], text: TextTokenizer, *, limit: int
) -> list[Contents]:
    """Return what each task and split holds.

    Args:
        folder: Folder of task shards.
        manifest: Manifest of the codes; empty if the folder is not encoded.
        text: Counts the tokens of text.
        limit: Samples of each task and split that are read.
    """
    rate = manifest.get("tokens_per_second", 0)
    found = []
    for task, split in list_kinds_and_splits(folder):
        row = _make_empty_contents(folder, task, split)
        for sample in islice(read_samples_in_order(folder, task, split), limit):
            row.read += 1
            row.tokens.update(_count_tokens(sample, text))
        row.seconds = row.tokens[SPEECH] / rate if rate else 0.0
        found.append(row)
    return found


def read_media_contents(folder: Location, *, limit: int) -> list[Contents]:
    """Return what each modality and split of a folder of media shards holds."""
    found = []
    for modality, split in list_kinds_and_splits(folder):
        row = _make_empty_contents(folder, modality, split)
        files = (
            f for s in list_shards(folder, modality, split) for _, f in read_shard(s.path, s.listed)
        )
        for one in islice(files, limit):
            row.read += 1
            row.seconds += _stated_seconds(one.get("json", b"{}"))
        found.append(row)
    return found


def read_samples_in_order(folder: Location, task: str, split: str) -> Iterator[Sample]:
    """Yield the samples of a task and split in stored order."""
    for shard in list_shards(folder, task, split):
        for key, files in read_shard(shard.path, shard.listed):
            yield parse_sample(key, files, shard.path)


def list_kinds_and_splits(folder: Location) -> list[tuple[str, str]]:
    """Return tasks or modalities with their splits, as the names of a folder's shards say.

    Raises:
        OmniError: If there are no shards.
    """
    names = {name.rpartition("-")[0] for name in shard_names(folder)}
    if not names:
        raise OmniError(f"no shards in '{folder}'; give a folder that prep-data or encode wrote")
    return sorted((kind, split) for kind, _, split in (name.partition("-") for name in names))


def _make_empty_contents(folder: Location, kind: str, split: str) -> Contents:
    shards = list_shards(folder, kind, split)
    size = sum(shard.path.stat().st_size for shard in shards)
    return Contents(kind, split, sum(shard.samples for shard in shards), size)


def _count_tokens(sample: Sample, text: TextTokenizer) -> Counter[str]:
    counts: Counter[str] = Counter()
    for part in (part for turn in sample.turns for part in turn.parts):
        if part.codes is not None:
            counts[part.modality] += len(part.codes)
        elif part.modality == TEXT:
            counts[TEXT] += len(text.encode(part.text or ""))
    return counts


def _stated_seconds(raw: bytes) -> float:
    """Return the seconds that the facts beside a recording state; 0 if they state none."""
    try:
        return float(json.loads(raw).get("duration_s", 0))
    except (ValueError, AttributeError):
        return 0.0
