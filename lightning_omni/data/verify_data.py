"""The verb `verify-data`: read every shard of a data folder and compare it with the manifests."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lightning_omni.data.encoding.code_features import check_code_features
from lightning_omni.data.manifest import (
    MANIFEST,
    SHARD_FOLDERS,
    ListedShard,
    read_manifest,
    read_shard_list,
)
from lightning_omni.data.shard_checks import find_shard_names
from lightning_omni.data.shard_index import (
    SUFFIX,
    ShardIndex,
    StoredIndex,
    build_index,
    digest_matches,
)
from lightning_omni.data.storage.locations import Location, parse_location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

_THREADS = 8
_SECONDS_BETWEEN_LINES = 10.0


class DamagedDataError(OmniError):
    """Files of a data folder are not what its manifests list."""


@dataclass(frozen=True, slots=True)
class _ShardFile:
    """A shard to be read, and what is listed of it."""

    path: Location
    listed: ListedShard


def verify_data(data: str) -> None:
    """Read every shard of a data folder and of its codes, and report all that are damaged.

    Sizes, SHA-256, numbers of samples and indices are compared with the manifests; missing and
    surplus shards are reported too. Nothing is written.

    Args:
        data: Folder or URL written by prep-data, or one of its folders of codes.

    Raises:
        OmniError: If there is no manifest, or any file is damaged, missing or surplus.
    """
    folder = parse_location(data)
    manifest = read_manifest(folder)
    is_codes = "spans" in manifest
    problems: list[str] = []
    shards: list[_ShardFile] = []
    for part in [folder] if is_codes else _shard_folders(folder):
        found, wrong = _list_shards(part)
        shards += found
        problems += wrong
    read_bytes = 0
    shown = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, (size, wrong) in enumerate(pool.map(_verify_shard, shards), 1):
            problems += wrong
            read_bytes += size
            if time.monotonic() - shown > _SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                log.info("%d of %d shards read, %.1f GB", number, len(shards), read_bytes / 1e9)
    for problem in problems:
        log.error(problem)
    if problems:
        raise DamagedDataError(
            f"{len(problems)} files of '{folder}' are damaged, missing or surplus, see above; "
            "restore them, or prepare or encode the data again"
        )
    samples = sum(shard.listed.samples for shard in shards)
    log.info(
        "'%s': %d shards with %d samples and media, %.1f MB, are as listed",
        folder,
        len(shards),
        samples,
        read_bytes / 1e6,
    )


def _shard_folders(data: Location) -> Iterator[Location]:
    """Yield the folders of shards of a data folder, those of codes last."""
    for name in SHARD_FOLDERS:
        yield data / name
    for codes in _codes_folders(data):
        if (codes / MANIFEST).is_file():
            yield codes
        else:
            log.warning("'%s' is not finished and not verified; `encode` goes on there", codes)


def _codes_folders(data: Location) -> list[Location]:
    """Return the folders of codes of a data folder; none where the server cannot list them."""
    if not isinstance(data, Url):
        return sorted(path for path in (data / "codes").glob("*") if path.is_dir())
    if not data.can_be_listed:
        log.warning(
            "a web server cannot list the codes of '%s'; give their folder too: '%s'",
            data,
            data / "codes/HASH",
        )
        return []
    if not (data / "codes").is_dir():
        return []
    return [url for url in (data / "codes").iterdir() if url.address.endswith("/")]


def _list_shards(folder: Location) -> tuple[list[_ShardFile], list[str]]:
    """Return the shards of a folder, and what is wrong with the folder itself."""
    problems = []
    try:
        if (folder / MANIFEST).is_file():
            check_code_features(folder)
    except OmniError as error:
        problems.append(str(error))
    try:
        listed = read_shard_list(folder)
    except OmniError as error:
        return [], [str(error)]
    if listed is None:
        return [], [
            f"the manifest of '{folder}' is of an earlier version and lists no shards, so nothing "
            "can be compared; prepare the data again, or delete a folder of codes and encode again"
        ]
    found = set(find_shard_names(folder, listed))
    problems += [f"'{folder / name}' is missing" for name in sorted(listed.keys() - found)]
    problems += [f"'{folder / name}' is not listed" for name in sorted(found - listed.keys())]
    there = [_ShardFile(folder / n, one) for n, one in sorted(listed.items()) if n in found]
    return there, problems


def _verify_shard(shard: _ShardFile) -> tuple[int, list[str]]:
    """Read a shard and its index; return its bytes and what is wrong."""
    path, listed = shard.path, shard.listed
    try:
        index = build_index(path)
    except OmniError as error:
        return 0, [str(error)]
    except OSError as error:
        return 0, [f"'{path}' cannot be read ({error.strerror})"]
    wrong = []
    if listed.size not in (None, index.tar_bytes):
        wrong.append(f"has {index.tar_bytes} bytes, listed are {listed.size}")
    elif listed.sha256 is not None and not digest_matches(index.digest, listed.sha256):
        wrong.append("has another SHA-256 than is listed")
    if len(index) != listed.samples:
        wrong.append(f"holds {len(index)} samples, listed are {listed.samples}")
    problems = [f"'{path}' {'; '.join(wrong)}"] if wrong else _verify_index(path, index)
    return index.tar_bytes, problems


def _verify_index(path: Location, made: ShardIndex) -> list[str]:
    """Compare the index beside a shard with the one that was made of the shard."""
    beside = path.with_name(path.name + SUFFIX)
    if not beside.is_file():
        log.info("'%s' has no index and is read once more wherever it is used", path)
        return []
    try:
        if StoredIndex(path).is_equal(made):
            return []
    except OmniError as error:
        return [str(error)]
    return [f"'{beside}' is not the index of its shard; delete it or restore it"]
