"""The WebDataset shards of a prepared folder: its manifest, their names, their samples."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args, overload

os.environ.setdefault("WDS_SECURE", "1")  # no shell in URLs, no pickles in tars; read at import

from webdataset.tariterators import group_by_keys, tar_file_expander

from lightning_omni.data.manifest import ListedShard, read_shard_list
from lightning_omni.data.shard_index import (
    KEY,
    SUFFIX,
    check_is_file,
    is_tar_end,
    parse_members,
    read_index,
)
from lightning_omni.data.speech_feature_files import read_sample_features
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError, fold_text
from lightning_omni.files import check_file_size, file_sha256
from lightning_omni.tasks import TASK_NAMES
from lightning_omni.types import Role, Sample

MAX_SAMPLE_BYTES = 16_000_000
"""Largest JSON of a sample."""
_ROLES = get_args(Role)


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar of a folder.

    Attributes:
        path: The file.
        samples: Number of samples in it.
        listed: What the manifest says of it; None if that lists no shards.
    """

    path: Location
    samples: int
    listed: ListedShard | None = None


@overload
def shard_paths(folder: Path, kind: str, split: str) -> list[Path]: ...
@overload
def shard_paths(folder: Location, kind: str, split: str) -> Sequence[Location]: ...
def shard_paths(folder: Location, kind: str, split: str) -> Sequence[Location]:
    """Return the shards `KIND-SPLIT-NNNNNN.tar` in `folder`, sorted; may be empty."""
    if isinstance(folder, Url):
        return [folder / name for name in _list_names_at_url(folder, f"{kind}-{split}-[0-9]*.tar")]
    return sorted(folder.glob(f"{kind}-{split}-[0-9]*.tar"))


SHARDS = "*-*-[0-9]*.tar"
"""Pattern of the names of shards."""


def shard_names(folder: Location) -> list[str]:
    """Return the names of the shards in a folder, sorted; those of a URL as its manifest says."""
    if isinstance(folder, Url):
        return _list_names_at_url(folder, SHARDS)
    return sorted(path.name for path in folder.glob(SHARDS))


def holds_shards(folder: Location) -> bool:
    """Tell whether there is a folder of shards; at a URL, whether its manifest says so."""
    return bool(read_shard_list(folder)) if isinstance(folder, Url) else folder.is_dir()


def _list_names_at_url(folder: Url, pattern: str) -> list[str]:
    """Return names of a folder at a URL: its manifest's, or those listed by an object store."""
    listed = read_shard_list(folder)
    names = list(listed) if listed is not None else [url.name for url in folder.iterdir()]
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def read_shard(
    path: Location, listed: ListedShard | None = None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield `(key, {extension: bytes})` in stored order.

    Args:
        path: File of the shard. With an index beside it, the bytes of each sample are checked;
            without one, the checksum of a listed shard is compared before the first sample.
        listed: What the manifest says of the shard; None if nothing.

    Raises:
        OmniError: If the tar is broken or another one than was listed, or a key is not a plain
            name.
    """
    check_is_file(path)
    try:
        if path.with_name(path.name + SUFFIX).is_file():
            samples = _read_samples_by_index(path, listed)
        else:
            samples = _read_samples_of_stream(path, listed)
        yield from samples
    except (tarfile.TarError, OSError, EOFError) as error:
        raise OmniError(
            f"'{path}' is not a readable tar ({error}); prepare the data again"
        ) from error


def _read_samples_by_index(
    path: Location, listed: ListedShard | None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    index = read_index(path, sha256=None if listed is None else listed.sha256)
    if listed is not None:
        check_sample_count(path, len(index), listed.samples)
    with path.open("rb") as file:
        for offset, size, checksum in zip(index.offsets, index.sizes, index.checksums, strict=True):
            file.seek(int(offset))
            yield parse_members(file.read(int(size)), path, checksum=int(checksum))


def _read_samples_of_stream(
    path: Location, listed: ListedShard | None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    _check_tar_headers(path)
    if isinstance(path, Path) and listed is not None and listed.sha256 is not None:
        check_sha256(path, listed.sha256)
    count = 0
    with path.open("rb") as stream:
        source = [{"url": str(path), "stream": stream}]
        try:
            for item in group_by_keys(tar_file_expander(source)):
                key = str(item["__key__"])
                if not KEY.fullmatch(key):
                    raise OmniError(
                        f"'{path}' holds the key '{key}'; keys are letters, digits, _ and -"
                    )
                count += 1
                yield key, {k: v for k, v in item.items() if not k.startswith("__")}
        except ValueError as error:
            raise OmniError(f"'{path}' is damaged ({error}); prepare the data again") from error
    if listed is not None:
        check_sample_count(path, count, listed.samples)


def check_sample_count(path: Location, found: int, wanted: int) -> None:
    """Check that a shard has as many samples as its manifest lists.

    Raises:
        OmniError: If it has not.
    """
    if found != wanted:
        raise OmniError(
            f"'{path}' is damaged: {found} of {wanted} samples can be read; prepare the data again"
        )


def check_sha256(path: Path, wanted: str) -> None:
    """Check a shard's contents against the manifest.

    Raises:
        OmniError: If they are others.
    """
    if file_sha256(path) != wanted:
        raise OmniError(
            f"'{path}' has other contents than its manifest lists (its SHA-256 differs); restore "
            "it or prepare the data again"
        )


def _check_tar_headers(path: Location) -> None:
    """Walk the headers to the end: the streaming reader stops silently at a corrupt one."""
    end = 0
    size = path.stat().st_size
    with path.open("rb") as file:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // 512) * 512
        file.seek(end)
        is_ended = end <= size and is_tar_end(file)
    if not is_ended:
        raise tarfile.ReadError(f"damaged after byte {end} of {size}")


def find_medium_file(files: dict[str, bytes], key: str, path: Location) -> bytes:
    """Return the image or recording among a key's files.

    Raises:
        OmniError: If there is none.
    """
    content = next((v for k, v in files.items() if k != "json"), None)
    if content is None:
        raise OmniError(f"'{path}' holds no medium for key '{key}'; prepare the data again")
    return content


def read_samples(
    folder: Location, task: str, split: str, *, limit: int | None = None
) -> list[Sample]:
    """Return the samples of a task and split, in stored order; empty if there are no such shards.

    Args:
        folder: Folder of task shards.
        task: Name of the task.
        split: Name of the split.
        limit: Stop after this many, which leaves later shards unread.
    """
    samples = (
        parse_sample(key, files, shard.path)
        for shard in find_shards(folder, task, split)
        for key, files in read_shard(shard.path, shard.listed)
    )
    return list(islice(samples, limit))


def parse_sample(key: str, files: dict[str, bytes], path: Location) -> Sample:
    """Decode `KEY.json`, and read the speech features stored beside it, if any.

    Raises:
        OmniError: If it is missing or malformed.
    """
    try:
        check_file_size(len(files["json"]), MAX_SAMPLE_BYTES, f"{key}.json' of '{path}")
        sample = Sample.from_json(key, json.loads(files["json"]))
        _check_sample(sample)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        text = fold_text(repr(error))
        raise OmniError(f"sample '{key}' of '{path}' is malformed ({text})") from error
    return read_sample_features(sample, files, path)


def _check_sample(sample: Sample) -> None:
    """Check the types of what a sample holds; codes that are no integers would be rounded.

    Raises:
        ValueError: If one is wrong.
        TypeError: If the facts for evaluation are no object.
    """
    if sample.task not in TASK_NAMES:
        raise ValueError(f"task {sample.task!r}, wanted one of {', '.join(TASK_NAMES)}")
    if not isinstance(sample.meta, dict):
        raise TypeError(f"meta is a {type(sample.meta).__name__}, wanted an object")
    for turn in sample.turns:
        if turn.role not in _ROLES:
            raise ValueError(f"role {turn.role!r}, wanted one of {', '.join(_ROLES)}")
        for part in turn.parts:
            if part.codes is not None:
                is_right = set(map(type, part.codes)) <= {int}
            else:
                is_right = isinstance(part.text if part.key is None else part.key, str)
            if not is_right:
                raise ValueError(f"a part of {part.modality!r} holds neither a text nor integers")


def list_shards(folder: Location, kind: str, split: str) -> list[Shard]:
    """Return the shards of a kind and split with their numbers of samples.

    Args:
        folder: Folder of the shards. Its manifest, or that of the folder above, lists them;
            without one, they are counted.
        kind: Task, or modality of media shards.
        split: Name of the split.

    Raises:
        OmniError: If there are none, or others than the manifest lists.
    """
    found = find_shards(folder, kind, split)
    if not found:
        raise OmniError(
            f"no shards of '{kind}', split '{split}', in '{folder}'; drop it from the recipe or "
            f"prepare data that has it (prep-data --split {split})"
        )
    return found


def find_shards(folder: Location, kind: str, split: str) -> list[Shard]:
    """Return the shards of a kind and split, none if there are none; see `list_shards`.

    Raises:
        OmniError: If there are others than the manifest lists.
    """
    paths = shard_paths(folder, kind, split)
    listed = read_shard_list(folder)
    if listed is None:
        return [Shard(path, len(read_index(path))) for path in paths]
    is_own = re.compile(rf"{re.escape(kind)}-{re.escape(split)}-[0-9][^/]*\.tar")
    if not isinstance(folder, Url):
        wanted = {name for name in listed if is_own.fullmatch(name)}
        check_shard_names(folder, wanted, {path.name for path in paths})
    return [Shard(path, listed[path.name].samples, listed[path.name]) for path in paths]


def check_shard_names(folder: Location, listed: set[str], found: set[str]) -> None:
    """Check that the shards of a folder are those that its manifest lists.

    Raises:
        OmniError: If one is missing or not listed.
    """
    missing, surplus = sorted(listed - found), sorted(found - listed)
    if missing:
        others = f" ({len(missing) - 1} others are missing too)" if missing[1:] else ""
        renamed = f"; '{surplus[0]}' is there and not listed: rename it back" if surplus else ""
        raise OmniError(
            f"'{folder}' lacks the shard '{missing[0]}', which its manifest lists{others}"
            f"{renamed}; prepare the data again"
        )
    if surplus:
        raise OmniError(
            f"'{folder}' holds the shard '{surplus[0]}', which its manifest does not list; remove "
            "it or prepare the data again"
        )
