"""Samples and media that go to shards as they come, for corpora larger than memory.

Only one shard of samples per task is in memory; keys that were written are in a table on disk. The
shards lie in a folder beside the data folder until the corpus is read to its end, so a build that
fails or is killed leaves the data folder as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from data_prep.collection import MediaFile, check_key, check_sample
from data_prep.shard_stream import Shard, ShardStream
from data_prep.writer import MEDIA_PER_SHARD, SAMPLES_PER_SHARD, media_files, sample_files
from lightning_omni.data.shard_index import index_path
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder
from lightning_omni.types import Sample

_LOCK = ".lock"
_KEYS = "keys.sqlite"
_FOLDERS = ("media", "tasks")
_WRITTEN = (_LOCK, _KEYS, *_FOLDERS)


class KeySet:
    """A set of keys in a file, which only this process uses and nobody needs after it.

    Args:
        path: File of the set, which does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._table = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
            self._table.execute(f"PRAGMA {setting}")
        self._table.execute("CREATE TABLE keys (kind, key, PRIMARY KEY (kind, key)) WITHOUT ROWID")
        self._table.execute("BEGIN")  # one transaction to the end, so nothing waits for the disk

    def add(self, kind: str, key: str) -> bool:
        """Add a key and return whether it is new."""
        done = self._table.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (kind, key))
        return done.rowcount == 1

    def has(self, kind: str, key: str) -> bool:
        """Return whether a key was added."""
        found = self._table.execute("SELECT 1 FROM keys WHERE kind = ? AND key = ?", (kind, key))
        return found.fetchone() is not None

    def close(self) -> None:
        """Close the file."""
        self._table.close()


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

    def add(self, split: str, sample: Sample, *media: MediaFile) -> None:
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
                or self._keys.has(f"media {part.modality}", str(part.key))
            ),
        )
        for medium in media:
            self._add_medium(split, medium)
        if not self._keys.add(f"tasks {sample.task}", sample.key):
            return
        self.counts[sample.task] += 1
        waiting = self._waiting.setdefault(sample.task, {})
        waiting[sample.key] = sample
        if len(waiting) == SAMPLES_PER_SHARD:
            self._write_samples(split, sample.task)

    def finish(self, split: str) -> list[Shard]:
        """Finish all shards and return them."""
        for task in self._waiting:
            self._write_samples(split, task)
        streams = [*self._media.values(), *self._tasks.values()]
        for stream in streams:
            stream.close()
        return [shard for stream in streams for shard in stream.shards]

    def _add_medium(self, split: str, medium: MediaFile) -> None:
        check_key(medium.key)
        if not self._keys.add(f"media {medium.modality}", medium.key):
            return
        if medium.modality not in self._media:
            self._media[medium.modality] = ShardStream(
                self._folder, "media", medium.modality, split, limit=MEDIA_PER_SHARD
            )
        self._media[medium.modality].add(media_files(medium))

    def _write_samples(self, split: str, task: str) -> None:
        if task not in self._tasks:
            self._tasks[task] = ShardStream(
                self._folder, "tasks", task, split, limit=SAMPLES_PER_SHARD
            )
        waiting = self._waiting[task]
        for key in sorted(waiting):
            self._tasks[task].add(sample_files(waiting[key]))
        waiting.clear()


@contextlib.contextmanager
def unfinished_folder(folder: Path) -> Iterator[tuple[Path, KeySet]]:
    """Give an empty folder and a set of keys in it, both of which are removed in the end.

    What a killed process left there is removed first.

    Raises:
        OmniError: If another process is using the folder, or it holds something else.
    """
    make_folder(folder)
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _WRITTEN)
    if foreign:
        raise OmniError(
            f"'{folder}' contains '{foreign[0]}', which prep-data did not write; move it away"
        )
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OmniError(
                f"another prep-data is writing the same corpus into '{folder}'; wait for it"
            ) from error
        _remove_shards(folder)
        keys = KeySet(folder / _KEYS)
        try:
            yield folder, keys
        except (OSError, sqlite3.Error) as error:
            raise OmniError(
                f"stopped while writing '{folder}' ({error}); is the disk full, or a source not "
                "readable?"
            ) from error
        finally:
            keys.close()
            shutil.rmtree(folder, ignore_errors=True)


def _remove_shards(folder: Path) -> None:
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / _KEYS).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold an exclusive lock on a data folder while a process adds shards to it."""
    with (out / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def move_shards(folder: Path, shards: list[Shard], out: Path, listed: list[str]) -> list[Shard]:
    """Move finished shards into a data folder, numbered behind those that are there.

    Args:
        folder: Folder of the shards.
        shards: The shards, numbered from 0.
        out: Data folder, held by `locked`.
        listed: Paths of the shards in its manifest; others are left of a killed process and go.
    """
    for path in [path for name in _FOLDERS for path in sorted((out / name).glob("*.tar"))]:
        if path.relative_to(out).as_posix() not in listed:
            path.unlink()
            index_path(path).unlink(missing_ok=True)
    first = Counter(path.rpartition("-")[0] for path in listed)
    moved = []
    for shard in shards:
        stem, _, number = shard.path.removesuffix(".tar").rpartition("-")
        target = f"{stem}-{int(number) + first[stem]:06d}.tar"
        (out / target).parent.mkdir(exist_ok=True)
        index_path(folder / shard.path).replace(index_path(out / target))
        (folder / shard.path).replace(out / target)
        moved.append(replace(shard, path=target))
    return moved
