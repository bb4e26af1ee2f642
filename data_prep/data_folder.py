"""Deterministic tar shards, their manifest and the attribution required by licences."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.collection import Collection
from data_prep.media_file import MediaFile
from data_prep.shard_stream import ShardEntry, ShardStream
from lightning_omni.data.manifest import MANIFEST, add_checksum, read_manifest
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder
from lightning_omni.types import Sample

MEDIA_PER_SHARD = 2000
SAMPLES_PER_SHARD = 1000
_LAYOUT = 1
_PARTIAL = ".partial"
_DERIVED = ("codes", "scene_classifier", "oracle")  # written into a data folder by later commands
_BUILT = (MANIFEST, "ATTRIBUTION.md", "media", "tasks", ".lock", *_DERIVED)


def replace_data_folder(collection: Collection, out: Path, facts: dict[str, Any]) -> dict[str, Any]:
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
    manifest = write_shards_and_manifest(collection, partial, facts, earlier=[])
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


def write_shards_and_manifest(
    collection: Collection, out: Path, facts: dict[str, Any], *, earlier: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write shards and the manifest into a folder; return the manifest.

    Args:
        collection: Samples and media to write.
        out: Data folder.
        facts: Further entries of the manifest.
        earlier: Manifest entries of shards that the folder already holds.
    """
    shards = [*_write_media_shards(collection, out), *_write_task_shards(collection, out)]
    listed = [*earlier, *(asdict(shard) for shard in shards)]
    return write_manifest(out, {**facts, "shards": listed})


def read_extendable_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest of a folder to which data can be added, an empty one if it has none.

    Raises:
        OmniError: If the folder holds a preset, or a manifest without shards.
    """
    if not (out / MANIFEST).is_file():
        return {"shards": [], "sources": []}
    earlier = read_manifest(out)
    if not isinstance(earlier.get("shards"), list) or earlier.get("preset"):
        raise OmniError(
            f"'{out}' holds other data (preset {earlier.get('preset')}); choose another --out"
        )
    return earlier


def write_manifest(out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest of a folder in one step and return it.

    Args:
        out: Data folder, which is made if it does not exist.
        facts: Entries of the manifest, `shards` among them.
    """
    shards = sorted(facts["shards"], key=lambda s: str(s["path"]))
    manifest = {"layout": _LAYOUT, **facts, "shards": shards}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(add_checksum(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    written = out / f"{MANIFEST}{_PARTIAL}"
    written.write_text(text + "\n", encoding="utf-8")
    written.replace(out / MANIFEST)
    return manifest


def write_attribution(out: Path, sources: Iterable[dict[str, str]]) -> None:
    """List the sources of a data folder and their licences in its `ATTRIBUTION.md`."""
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
    (out / "ATTRIBUTION.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_media_shards(collection: Collection, out: Path) -> Iterator[ShardEntry]:
    for (modality, split), media in sorted(collection.media.items()):
        stream = ShardStream(out, "media", modality, split, limit=MEDIA_PER_SHARD)
        yield from _write_shards(stream, (stored_media_files(media[key]) for key in sorted(media)))


def _write_task_shards(collection: Collection, out: Path) -> Iterator[ShardEntry]:
    for (task, split), samples in sorted(collection.samples.items()):
        stream = ShardStream(out, "tasks", task, split, limit=SAMPLES_PER_SHARD)
        yield from _write_shards(
            stream, (stored_sample_files(samples[key]) for key in sorted(samples))
        )


def _write_shards(
    stream: ShardStream, items: Iterable[Iterable[tuple[str, bytes]]]
) -> Iterator[ShardEntry]:
    for files in items:
        stream.add_item(files)
    stream.close()
    yield from stream.shards


def stored_media_files(medium: MediaFile) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a medium as they are stored: its content and its facts."""
    yield f"{medium.key}.{medium.extension}", medium.load()
    yield f"{medium.key}.json", _to_json_bytes(medium.info)


def stored_sample_files(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """Yield the file of a sample as it is stored."""
    yield f"{sample.key}.json", _to_json_bytes(sample.to_json())


def _to_json_bytes(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
