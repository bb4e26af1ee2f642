"""The WebDataset shards of a prepared folder: its manifest, their names, their samples."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

os.environ.setdefault("WDS_SECURE", "1")  # no shell in URLs, no pickles in tars; read at import

from webdataset.tariterators import group_by_keys, tar_file_expander

from lightning_omni.data.shard_index import read_index
from lightning_omni.data.speech_feature_files import read_sample_features
from lightning_omni.data.storage.locations import Location
from lightning_omni.data.storage.urls import Url
from lightning_omni.errors import OmniError
from lightning_omni.files import read_json_object
from lightning_omni.types import Sample

MANIFEST = "manifest.json"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar of a folder and its number of samples."""

    path: Location
    samples: int


def read_manifest(folder: Location) -> dict[str, Any]:
    """Load `manifest.json`.

    Raises:
        OmniError: If the folder was never prepared, or its manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise OmniError(f"no {MANIFEST} in '{folder}'; run `make prep-data` or give another folder")
    return read_json_object(path, remedy="prepare the folder again")


def manifest_digest(folder: Location) -> str:
    """Return a checksum of a folder's manifest, which changes with its shards."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:12]


@overload
def shard_paths(folder: Path, kind: str, split: str) -> list[Path]: ...
@overload
def shard_paths(folder: Location, kind: str, split: str) -> Sequence[Location]: ...
def shard_paths(folder: Location, kind: str, split: str) -> Sequence[Location]:
    """Return the shards `KIND-SPLIT-NNNNNN.tar` in `folder`, sorted; may be empty."""
    if isinstance(folder, Url):
        return [folder / name for name in _list_names_at_url(folder, f"{kind}-{split}-[0-9]*.tar")]
    return sorted(folder.glob(f"{kind}-{split}-[0-9]*.tar"))


def shard_names(folder: Location) -> list[str]:
    """Return the names of the shards in a folder, sorted; those of a URL as its manifest says."""
    pattern = "*-*-[0-9]*.tar"
    if isinstance(folder, Url):
        return _list_names_at_url(folder, pattern)
    return sorted(path.name for path in folder.glob(pattern))


def holds_shards(folder: Location) -> bool:
    """Tell whether there is a folder of shards; at a URL, whether its manifest says so."""
    return bool(_read_manifest_counts(folder)) if isinstance(folder, Url) else folder.is_dir()


def _list_names_at_url(folder: Url, pattern: str) -> list[str]:
    """Return names of a folder at a URL: its manifest's, or those listed by an object store."""
    counts = _read_manifest_counts(folder)
    names = list(counts) if counts is not None else [url.name for url in folder.iterdir()]
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def read_shard(
    path: Location, *, has_known_size: bool = False
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
            _check_tar_headers(path)
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


def _check_tar_headers(path: Location) -> None:
    """Walk the headers to the end: the streaming reader stops silently at a corrupt one."""
    end = 0
    size = path.stat().st_size
    with path.open("rb") as file:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // 512) * 512
        file.seek(end)
        rest = file.read()
    if end > size or len(rest) < 1024 or rest.strip(b"\0"):
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
        parse_sample(key, files, path)
        for path in shard_paths(folder, task, split)
        for key, files in read_shard(path)
    )
    return list(islice(samples, limit))


def parse_sample(key: str, files: dict[str, bytes], path: Location) -> Sample:
    """Decode `KEY.json`, and read the speech features stored beside it, if any.

    Raises:
        OmniError: If it is missing or malformed.
    """
    try:
        sample = Sample.from_json(key, json.loads(files["json"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise OmniError(f"sample '{key}' of '{path}' is malformed ({error!r})") from error
    return read_sample_features(sample, files, path)


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
    paths = shard_paths(folder, kind, split)
    counts = _read_manifest_counts(folder) or {}
    is_own = re.compile(rf"{re.escape(kind)}-{re.escape(split)}-[0-9][^/]*\.tar")
    listed = {name for name in counts if is_own.fullmatch(name)}
    if counts and not isinstance(folder, Url):
        _check_listed_names(folder, listed, {path.name for path in paths})
    if not paths:
        raise OmniError(
            f"no shards of '{kind}', split '{split}', in '{folder}'; drop it from the recipe or "
            f"prepare data that has it (prep-data --split {split})"
        )
    return [Shard(path, counts[path.name] if counts else len(read_index(path))) for path in paths]


def _check_listed_names(folder: Location, listed: set[str], found: set[str]) -> None:
    for name in sorted(listed - found):
        raise OmniError(
            f"'{folder}' lacks the shard '{name}', which its manifest lists; prepare the data again"
        )
    for name in sorted(found - listed):
        raise OmniError(
            f"'{folder}' holds the shard '{name}', which its manifest does not list; remove it or "
            "prepare the data again"
        )


def _read_manifest_counts(folder: Location) -> dict[str, int] | None:
    """Return the number of samples of each shard by name, from the manifest; None without one."""
    if (folder / MANIFEST).is_file():
        counts = read_manifest(folder).get("samples")
        return counts if isinstance(counts, dict) else None
    if (folder.parent / MANIFEST).is_file():
        shards = read_manifest(folder.parent).get("shards")
        if isinstance(shards, list):
            own = (s for s in shards if Path(s["path"]).parent.name == folder.name)
            return {Path(s["path"]).name: int(s["samples"]) for s in own}
    return None
