"""Samples and media that go to shards as they come, for corpora larger than memory.

Only one shard of samples per task is in memory; keys that were written are in a table on disk. The
shards lie in a folder beside the data folder until the corpus is read to its end, so a build that
fails or is killed leaves the data folder as it was.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Self

from data_prep.data_folder import (
    MEDIA_PER_SHARD,
    SAMPLES_PER_SHARD,
    stored_media_files,
    stored_sample_files,
)
from data_prep.key_set import KeySet
from data_prep.keys import check_key
from data_prep.media_file import MediaFile
from data_prep.samples import check_sample
from data_prep.shard_stream import ShardEntry, ShardStream
from lightning_omni.types import Sample


class StreamedCollection:
    """Writes samples and media of one split to shards as they are added.

    Media are stored in the order in which they come. Samples are, too, but within a shard by their
    key, a hash, so that the first samples of a shard are any of its samples.

    Args:
        folder: Folder to write the shards into; exists and is empty.
        keys: Keys of what was written, of this collection alone.
    """

    def __init__(self, folder: Path, keys: KeySet) -> None:
        self.counts: Counter[str] = Counter()
        """Number of samples by task."""
        self._folder, self._keys = folder, keys
        self._media: dict[str, ShardStream] = {}
        self._tasks: dict[str, ShardStream] = {}
        self._waiting: dict[str, dict[str, Sample]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (*self._media.values(), *self._tasks.values()):
            stream.abandon()

    def add_sample(self, split: str, sample: Sample, *media: MediaFile) -> None:
        """Add a sample with its media. Adding the same sample or medium twice has no effect.

        Raises:
            OmniError: If the split or task is unknown, a key is malformed, or a medium is missing.
        """
        given = {(medium.modality, medium.key) for medium in media}
        check_sample(
            split,
            sample,
            lambda part: (
                (part.modality, part.key) in given
                or self._keys.has_key(f"media {part.modality}", str(part.key))
            ),
        )
        for medium in media:
            self._add_medium(split, medium)
        if not self._keys.add_key(f"tasks {sample.task}", sample.key):
            return
        self.counts[sample.task] += 1
        waiting = self._waiting.setdefault(sample.task, {})
        waiting[sample.key] = sample
        if len(waiting) == SAMPLES_PER_SHARD:
            self._write_waiting_samples(split, sample.task)

    def finish_shards(self, split: str) -> list[ShardEntry]:
        """Finish all shards and return them."""
        for task in self._waiting:
            self._write_waiting_samples(split, task)
        streams = [*self._media.values(), *self._tasks.values()]
        for stream in streams:
            stream.close()
        return [shard for stream in streams for shard in stream.shards]

    def _add_medium(self, split: str, medium: MediaFile) -> None:
        check_key(medium.key)
        if not self._keys.add_key(f"media {medium.modality}", medium.key):
            return
        if medium.modality not in self._media:
            self._media[medium.modality] = ShardStream(
                self._folder, "media", medium.modality, split, limit=MEDIA_PER_SHARD
            )
        self._media[medium.modality].add_item(stored_media_files(medium))

    def _write_waiting_samples(self, split: str, task: str) -> None:
        if task not in self._tasks:
            self._tasks[task] = ShardStream(
                self._folder, "tasks", task, split, limit=SAMPLES_PER_SHARD
            )
        waiting = self._waiting[task]
        for key in sorted(waiting):
            self._tasks[task].add_item(stored_sample_files(waiting[key]))
        waiting.clear()
