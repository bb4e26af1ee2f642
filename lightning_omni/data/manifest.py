"""The manifest of a folder: which shards it has, with their counts, sizes and checksums."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.files import is_json_integer, parse_json_object

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHARD_FOLDERS = ("media", "tasks")
"""Folders of a prepared data folder whose shards its manifest lists; codes have their own."""
CHECKSUM = "checksum"
"""Entry of a manifest: the SHA-256 of its other entries, however the file is laid out."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ListedShard:
    """What a manifest says of a shard.

    Attributes:
        samples: Number of samples or media.
        size: Bytes of the tar; None in manifests of earlier versions.
        sha256: Checksum of the tar; None in manifests of earlier versions.
    """

    samples: int
    size: int | None = None
    sha256: str | None = None


def add_checksum(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a manifest with their checksum as the first one."""
    rest = {name: value for name, value in facts.items() if name != CHECKSUM}
    return {CHECKSUM: _sha256_of_entries(json.loads(json.dumps(rest))), **rest}


def _sha256_of_entries(entries: dict[str, Any]) -> str:
    """Return the SHA-256 of entries in the layout of data folders, on which names of codes rest."""
    text = json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_manifest(folder: Location) -> dict[str, Any]:
    """Load `manifest.json` and compare it with its checksum, which is left out.

    Raises:
        OmniError: If the folder was never prepared, or its manifest is damaged.
    """
    return _read_once(folder)[0]


def _read_once(folder: Location) -> tuple[dict[str, Any], str]:
    """Return the entries of a manifest and their SHA-256, both of one reading of the file."""
    path = folder / MANIFEST
    if not path.is_file():
        raise OmniError(f"no {MANIFEST} in '{folder}'; run `make prep-data` or give another folder")
    content = path.read_bytes()
    manifest = parse_json_object(content, name=f"'{path}'", remedy="; prepare the folder again")
    stated = manifest.pop(CHECKSUM, None)
    if stated is None:
        warn_once(
            f"'{path}' has no checksum of its own, as those of earlier versions, so a change in it "
            "is not noticed; the next corpus that is added, or encoding again, writes one"
        )
        return manifest, hashlib.sha256(content).hexdigest()
    digest = _sha256_of_entries(manifest)
    if stated != digest:
        raise OmniError(
            f"'{path}' differs from the checksum in it, so it was changed or damaged; copy it "
            f"again, or prepare the data or encode again (or delete its entry '{CHECKSUM}', if you "
            "changed it on purpose)"
        )
    return manifest, digest


@lru_cache
def warn_once(message: str) -> None:
    """Log a warning, once per process."""
    log.warning(message)


def manifest_sha256(folder: Location) -> str:
    """Return the SHA-256 of a manifest without its own checksum, which changes with its shards.

    Raises:
        OmniError: As `read_manifest`.
    """
    return _read_once(folder)[1]


def manifest_digest(folder: Location) -> str:
    """Return the first digits of `manifest_sha256`."""
    return manifest_sha256(folder)[:12]


def read_shard_list(folder: Location) -> dict[str, ListedShard] | None:
    """Return the shards of a folder by name, as its manifest or the one above lists them.

    Args:
        folder: Folder of shards: `media` or `tasks` of a data folder, or a folder of codes.

    Returns:
        The shards; None if there is no manifest, or it is of an earlier version and lists none.

    Raises:
        OmniError: If the manifest is damaged.
    """
    if (folder / MANIFEST).is_file():
        return _parse_list_of_codes(read_manifest(folder), folder / MANIFEST)
    if (folder.parent / MANIFEST).is_file():
        return _parse_list_of_data(read_manifest(folder.parent), folder)
    return None


def _parse_list_of_codes(manifest: dict[str, Any], path: Location) -> dict[str, ListedShard] | None:
    counts, sizes, sums = (manifest.get(name, {}) for name in ("samples", "bytes", "sha256"))
    if not counts and not sums:
        return None
    if not all(isinstance(table, dict) for table in (counts, sizes, sums)):
        raise OmniError(f"'{path}' is damaged (samples, bytes and sha256 are tables by name)")
    names = sorted({*counts, *sums})
    return {
        name: _parse_entry(name, counts.get(name, 0), sizes.get(name), sums.get(name), path)
        for name in names
    }


def _parse_list_of_data(
    manifest: dict[str, Any], folder: Location
) -> dict[str, ListedShard] | None:
    listed, path = manifest.get("shards"), folder.parent / MANIFEST
    if listed is None:
        return None
    if not isinstance(listed, list):
        raise OmniError(f"'{path}' is damaged ('shards' is no list); prepare the data again")
    found = {}
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise OmniError(f"'{path}' is damaged (a shard without a path); prepare the data again")
        shard = PurePosixPath(entry["path"])
        if shard.parts[:-1] == (folder.name,):
            found[shard.name] = _parse_entry(
                entry["path"], entry.get("samples"), entry.get("bytes"), entry.get("sha256"), path
            )
        elif len(shard.parts) != 2 or shard.parts[0] not in SHARD_FOLDERS:
            raise OmniError(
                f"'{path}' lists the shard '{shard}', wanted one in {' or '.join(SHARD_FOLDERS)}; "
                "prepare the data again"
            )
    return found


def _parse_entry(name: str, samples: Any, size: Any, sha256: Any, path: Location) -> ListedShard:
    """Return a shard's entry, checked."""
    has_size = size is None or (is_json_integer(size) and size >= 0)
    has_sum = sha256 is None or (isinstance(sha256, str) and _SHA256.fullmatch(sha256))
    if not is_json_integer(samples) or samples < 0 or not has_size or not has_sum:
        raise OmniError(
            f"'{path}' is damaged (shard '{name}': samples {samples!r}, bytes {size!r}, sha256 "
            f"{sha256!r}); copy it again or prepare the data again"
        )
    return ListedShard(samples, size, sha256)
