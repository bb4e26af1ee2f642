"""A folder of unfinished shards beside a data folder, and their move into it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_prep.key_set import KeySet
from data_prep.shard_stream import ShardEntry
from lightning_omni.data.shard_index import index_path
from lightning_omni.errors import OmniError
from lightning_omni.files import file_lock, make_folder

_LOCK = ".lock"
_KEYS = "keys.sqlite"
_FOLDERS = ("media", "tasks")
_WRITTEN = (_LOCK, _KEYS, *_FOLDERS)


@contextlib.contextmanager
def open_unfinished_folder(folder: Path) -> Iterator[tuple[Path, KeySet]]:
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
    try:
        with file_lock(folder / _LOCK, waits=False):
            yield from _open_emptied_folder(folder)
    except BlockingIOError as error:
        raise OmniError(
            f"another prep-data is writing the same data into '{folder}'; wait for it"
        ) from error


def _open_emptied_folder(folder: Path) -> Iterator[tuple[Path, KeySet]]:
    """Give a locked folder, emptied, and a set of keys; both are removed in the end."""
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
def lock_data_folder(out: Path) -> Iterator[None]:
    """Hold an exclusive lock on a data folder while a process adds shards to it."""
    with file_lock(out / _LOCK):
        yield


def move_shards(
    folder: Path, shards: list[ShardEntry], out: Path, listed: list[str]
) -> list[ShardEntry]:
    """Move finished shards into a data folder, numbered behind those that are there.

    Args:
        folder: Folder of the shards.
        shards: The shards, numbered from 0.
        out: Data folder, held by `lock_data_folder`.
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
