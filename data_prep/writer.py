"""Deterministic tar shards, their manifest and the attribution required by licences."""

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

from data_prep.collection import Collection, MediaFile
from lightning_omni.data.shards import MANIFEST, read_manifest
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder
from lightning_omni.types import Sample

MEDIA_PER_SHARD = 2000
SAMPLES_PER_SHARD = 1000
_LAYOUT = 1
_PARTIAL = ".partial"
_DERIVED = ("codes", "scene_classifier", "oracle")  # written into a data folder by later commands
_BUILT = (MANIFEST, "ATTRIBUTION.md", "media", "tasks", *_DERIVED)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Manifest entry of a shard.

    Attributes:
        path: Path relative to the data folder.
        kind: Task, or modality of media shards.
        split: Split.
        samples: Number of samples or media files.
        bytes: Size of the tar in bytes.
        sha256: Checksum of the tar.
    """

    path: str
    kind: str
    split: str
    samples: int
    bytes: int
    sha256: str


def write_new(collection: Collection, out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write a data folder atomically, replacing one of the same preset; return the manifest.

    Files derived from the replaced folder (codes, scene classifier) are kept if the manifest is
    unchanged.

    Args:
        collection: Samples and media to write.
        out: Data folder.
        facts: Further entries of the manifest, `preset` among them.

    Raises:
        OmniError: If `out` holds anything else.
    """
    before = check_replaceable(out, facts["preset"])
    partial = out.with_name(out.name + _PARTIAL)
    if partial.exists():
        shutil.rmtree(partial)
    manifest = write_into(collection, partial, facts, earlier=[])
    if before == manifest:
        for name in _DERIVED:
            if (out / name).is_dir():
                (out / name).rename(partial / name)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return manifest


def check_replaceable(out: Path, preset: str) -> dict[str, Any] | None:
    """Check that writing `out` destroys no files of the user; return its old manifest, if any.

    Raises:
        OmniError: If `out` or the temporary folder beside it is not a folder or holds files that
            this package did not write, or if `out` holds another preset or a corpus.
    """
    for folder in (out, out.with_name(out.name + _PARTIAL)):
        foreign = _foreign_names(folder)
        if foreign:
            raise OmniError(
                f"'{folder}' contains '{foreign[0]}', which is not part of a data folder; choose "
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


def _foreign_names(folder: Path) -> list[str]:
    """Return the names in a folder that are not part of a data folder."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise OmniError(f"'{folder}' is a file, wanted a folder; choose another --out")
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in _BUILT]


def write_into(
    collection: Collection, out: Path, facts: dict[str, Any], *, earlier: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write shards and the manifest into a folder; return the manifest.

    Args:
        collection: Samples and media to write.
        out: Data folder.
        facts: Further entries of the manifest.
        earlier: Manifest entries of shards that the folder already holds.
    """
    shards = [*_write_media(collection, out), *_write_tasks(collection, out)]
    listed = [*earlier, *(asdict(shard) for shard in shards)]
    manifest = {"layout": _LAYOUT, **facts, "shards": sorted(listed, key=lambda s: str(s["path"]))}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
    (out / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def attribution(sources: Iterable[dict[str, str]]) -> str:
    """List the sources of a data folder and their licences as Markdown."""
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


def _media_files(medium: MediaFile) -> Iterator[tuple[str, bytes]]:
    yield f"{medium.key}.{medium.extension}", medium.load()
    yield f"{medium.key}.json", _json(medium.info)


def _task_files(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield f"{sample.key}.json", _json(sample.to_json())


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
