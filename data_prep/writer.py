"""Deterministic tar shards, their manifest and the attribution that licences ask for."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from data_prep.collection import Collection, Media
from lightning_omni.errors import OmniError
from lightning_omni.types import Sample

MEDIA_PER_SHARD = 2000
SAMPLES_PER_SHARD = 1000
MANIFEST = "manifest.json"
_LAYOUT = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of the manifest. `path` is relative to the data folder."""

    path: str
    kind: str
    split: str
    samples: int
    bytes: int
    sha256: str


def write_new(collection: Collection, out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write a data folder, replacing one made earlier. It appears when it is complete.

    Raises:
        OmniError: If `out` holds files that are no data folder.
    """
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise OmniError(
            f"{out} holds files but no {MANIFEST}; it is not a data folder: choose another --out"
        )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    manifest = write_into(collection, partial, about, earlier=[])
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return manifest


def write_into(
    collection: Collection, out: Path, about: dict[str, Any], *, earlier: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write shards and the manifest into a folder; `earlier` shards stay listed."""
    shards = [*_write_media(collection, out), *_write_tasks(collection, out)]
    listed = [*earlier, *(asdict(shard) for shard in shards)]
    manifest = {"layout": _LAYOUT, **about, "shards": sorted(listed, key=lambda s: str(s["path"]))}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
    (out / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a data folder.

    Raises:
        OmniError: If there is none or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise OmniError(f"{folder} has no {MANIFEST}; make it with data_prep first") from error
    except ValueError as error:
        raise OmniError(f"{path} is not JSON ({error}); build the folder anew") from error
    return manifest


def attribution(sources: Iterable[dict[str, str]]) -> str:
    """List what the folder holds of others, with licences, as Markdown."""
    lines = [
        "# Attribution",
        "",
        "This folder was built from the works below. Share-alike and attribution licences apply to",
        "the media made from them; the licence of each file is in the JSON beside it.",
        "",
    ]
    lines += [
        f"- {s['name']} {s['version']} ({s['how']}): {s['licence']}"
        for s in sorted(sources, key=lambda s: s["name"])
    ]
    return "\n".join(lines) + "\n"


def _write_media(collection: Collection, out: Path) -> Iterator[Shard]:
    for (modality, split), media in sorted(collection.media.items()):
        stem = f"media/{modality}-{split}"
        in_order = [media[key] for key in sorted(media)]
        yield from _write_shards(
            in_order, out, stem, modality, split, MEDIA_PER_SHARD, _media_files
        )


def _write_tasks(collection: Collection, out: Path) -> Iterator[Shard]:
    for (task, split), samples in sorted(collection.samples.items()):
        in_order = [samples[key] for key in sorted(samples)]
        stem = f"tasks/{task}-{split}"
        yield from _write_shards(in_order, out, stem, task, split, SAMPLES_PER_SHARD, _task_files)


def _write_shards(
    items: Iterable[T],
    out: Path,
    stem: str,
    kind: str,
    split: str,
    limit: int,
    files: Callable[[T], Iterator[tuple[str, bytes]]],
) -> Iterator[Shard]:
    remaining = iter(items)
    number = 0
    while chunk := list(islice(remaining, limit)):
        path = f"{stem}-{number:06d}.tar"
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        _write_tar(out / path, (file for item in chunk for file in files(item)))
        raw = (out / path).read_bytes()
        checksum = hashlib.sha256(raw).hexdigest()
        yield Shard(path, kind, split, len(chunk), len(raw), checksum)
        number += 1


def _write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))


def _media_files(medium: Media) -> Iterator[tuple[str, bytes]]:
    yield f"{medium.key}.{medium.extension}", medium.load()
    yield f"{medium.key}.json", _json(medium.info)


def _task_files(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield f"{sample.key}.json", _json(sample.to_json())


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
