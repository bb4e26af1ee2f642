"""Write a shard of a job and its index, so that a shard with its name has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_omni.data.shard_index import index_path, write_index
from lightning_omni.files import sync_to_disk
from lightning_omni.jobs.work_folder import partial_path


@contextmanager
def write_indexed_shard(target: Path, work: Path) -> Iterator[Path]:
    """Give a path in a work folder to write a tar at; then move its index and it to the target.

    If writing fails, nothing is left of it.

    Args:
        target: Path of the shard; its folder exists.
        work: Work folder of the job, on the same file system.
    """
    partial = partial_path(target.name, work)
    try:
        yield partial
        sync_to_disk(partial)
        write_index(partial)
        index_path(partial).replace(index_path(target))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
        index_path(partial).unlink(missing_ok=True)
