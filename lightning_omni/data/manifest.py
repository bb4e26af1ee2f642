"""The manifest of a folder: which shards it has, with their counts, sizes and checksums."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.files import is_json_integer, read_json_object

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHARD_FOLDERS = ("media", "tasks")
"""Folders of a prepared data folder whose shards its manifest lists; codes have their own."""
CHECKSUM = "checksum"
"""Entry of a manifest: the SHA-256 of the file without this entry's line."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKSUM_LINE = re.compile(rb'^ *"checksum": "[0-9a-f]{64}",\r?\n', re.MULTILINE)


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


def add_checksum(text: str) -> str:
    """Return the text of a manifest, one entry a line, with its checksum as the first one."""
    first, rest = text.split("\n", 1)
    indent = rest[: len(rest) - len(rest.lstrip(" "))]
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{first}\n{indent}"{CHECKSUM}": "{digest}",\n{rest}'


def read_manifest(folder: Location) -> dict[str, Any]:
    """Load `manifest.json` and compare it with its checksum, which is left out.

    Raises:
        OmniError: If the folder was never prepared, or its manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise OmniError(f"no {MANIFEST} in '{folder}'; run `make prep-data` or give another folder")
    manifest = read_json_object(path, remedy="prepare the folder again")
    stated = manifest.pop(CHECKSUM, None)
    if stated is None:
        warn_once(
            f"'{path}' has no checksum of its own, as those of earlier versions, so a change in it "
            "is not noticed; the next corpus that is added, or encoding again, writes one"
        )
    elif stated != manifest_sha256(folder):
        raise OmniError(
            f"'{path}' differs from the checksum in it, so it was changed or damaged; copy it "
            f"again, or prepare the data or encode again (or delete its line '{CHECKSUM}', if you "
            "changed it on purpose)"
        )
    return manifest


@lru_cache
def warn_once(message: str) -> None:
    """Log a warning, once per process."""
    log.warning(message)


def manifest_sha256(folder: Location) -> str:
    """Return the SHA-256 of a manifest without its own checksum, which changes with its shards."""
    content = (folder / MANIFEST).read_bytes()
    return hashlib.sha256(_CHECKSUM_LINE.sub(b"", content, count=1)).hexdigest()


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
