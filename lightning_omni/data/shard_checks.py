"""Compare the shards of a folder with its manifest before anything is read of them.

Names, sizes and the digests in the indices are compared: some system calls a shard, or a request
for each at a URL, several at once, as network file systems take a millisecond for each. The
contents are read by `verify-data`, and when a sample is needed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from lightning_omni.data.manifest import SHARD_FOLDERS, ListedShard, read_shard_list, warn_once
from lightning_omni.data.shard_index import SUFFIX, StoredIndex, check_is_file
from lightning_omni.data.shards import (
    SHARDS,
    check_sample_count,
    check_shard_names,
    shard_names,
)
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.storage.request_errors import AccessDeniedError, MissingFolderError
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError

_AT_ONCE = 16


def check_prepared_shards(data: Location) -> None:
    """Compare the media and task shards of a data folder with its manifest.

    Raises:
        OmniError: If a shard is missing, not listed, cut or another one than is listed.
    """
    for name in SHARD_FOLDERS:
        check_shards(data / name)


def check_shards(folder: Location) -> None:
    """Compare the shards of a folder with the list of its manifest.

    Args:
        folder: Folder of shards: `media` or `tasks` of a data folder, or a folder of codes.

    Raises:
        OmniError: If a shard is missing, not listed, cut or another one than is listed.
    """
    listed = read_shard_list(folder)
    if listed is None:
        warn_once(
            f"the manifest of '{folder}' is of an earlier version and lists no shards, so one that "
            "is missing or changed is not noticed; prepare the data again, or delete a folder of "
            "codes and encode again"
        )
        return
    if any(shard.size is None for shard in listed.values()):
        warn_once(
            f"the manifest of '{folder}' lists shards without sizes, so one that is cut is noticed "
            "when it is read; `lightning_omni verify-data` reads all of them"
        )
    check_shard_names(folder, set(listed), set(find_shard_names(folder, listed)))
    check = partial(check_listed_shard, folder)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(check, listed, listed.values()))


def find_shard_names(folder: Location, listed: dict[str, ListedShard]) -> list[str]:
    """Return the shards that are there; at a web server, which lists nothing, those that should.

    Who may read a bucket and not list it is warned. A store has no folder without files.

    Raises:
        OmniError: If the folder cannot be listed for another reason, which may pass.
    """
    if not isinstance(folder, Url):
        return shard_names(folder)
    if not folder.can_be_listed:
        return list(listed)
    try:
        return [url.name for url in folder.glob(SHARDS)]
    except MissingFolderError:
        return []
    except AccessDeniedError as error:
        warn_once(
            f"'{folder}' cannot be listed ({error}), so a shard in it that its manifest does not "
            "list is not noticed"
        )
        return list(listed)


def check_listed_shard(folder: Location, name: str, listed: ListedShard) -> None:
    """Compare the size and the index of a shard with what is listed.

    Raises:
        OmniError: If the shard is missing, cut or another one.
    """
    path = folder / name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise OmniError(f"cannot read '{path}' ({error.strerror}); is it still there?") from error
    check_is_file(path)
    if listed.size is not None and size != listed.size:
        raise OmniError(
            f"'{path}' has {size} bytes but the manifest lists {listed.size}: it was cut or "
            "changed; copy it again or prepare the data again"
        )
    index = path.with_name(name + SUFFIX)
    if not isinstance(path, Url) and index.is_file():
        stored = StoredIndex(path, tar_bytes=size, sha256=listed.sha256)
        check_sample_count(path, len(stored), listed.samples)
