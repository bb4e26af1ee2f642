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
from lightning_omni.files import make_folder, read_json_object
from lightning_omni.types import Sample

MEDIA_PER_SHARD = 2000
SAMPLES_PER_SHARD = 1000
MANIFEST = "manifest.json"
_LAYOUT = 1
_PARTIAL = ".partial"
_DERIVED = ("codes", "oracle")
_OWN = (MANIFEST, "ATTRIBUTION.md", "media", "tasks", *_DERIVED)

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
    """Write a data folder, replacing one of the same preset. It appears when it is complete.

    What was derived from the folder before (codes, judges) stays if the manifest is the same.

    Raises:
        OmniError: If `out` holds anything else.
    """
    before = check_replaceable(out, about["preset"])
    partial = out.with_name(out.name + _PARTIAL)
    if partial.exists():
        shutil.rmtree(partial)
    manifest = write_into(collection, partial, about, earlier=[])
    if before == manifest:
        for name in _DERIVED:
            if (out / name).is_dir():
                (out / name).rename(partial / name)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return manifest


def check_replaceable(out: Path, preset: str) -> dict[str, Any] | None:
    """Make sure that writing `out` destroys nothing of the user's; return the old manifest.

    Raises:
        OmniError: If `out` is no folder, holds files that no builder wrote, or holds the data of
            another preset or a corpus; or if something else has the name of the unfinished folder.
    """
    for folder in (out, out.with_name(out.name + _PARTIAL)):
        strange = _strangers(folder)
        if strange:
            raise OmniError(
                f"'{folder}' holds '{strange[0]}', which is no part of a data folder; choose "
                "another --out"
            )
    if not out.exists() or not any(out.iterdir()):
        make_folder(out.parent)
        return None
    before = read_manifest(out)
    if before.get("layout") != _LAYOUT or before.get("preset") != preset:
        raise OmniError(
            f"'{out}' holds other data (preset {before.get('preset')}, wanted {preset}); choose "
            "another --out, or delete that folder"
        )
    return before


def _strangers(folder: Path) -> list[str]:
    """Names in a folder that no builder writes."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise OmniError(f"'{folder}' is a file, wanted a folder; choose another --out")
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in _OWN]


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
    if not path.is_file():
        raise OmniError(f"'{folder}' has no {MANIFEST}; make it with prep-data first")
    return read_json_object(path, remedy="delete the folder and build it anew")


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
