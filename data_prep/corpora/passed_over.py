"""Files below a source that its layout does not read, counted by kind and told."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from data_prep.corpora.source_files import (
    AUDIO_SUFFIXES,
    IMAGE_SUFFIXES,
    UNREAD_AUDIO,
    UNREAD_IMAGES,
    find_files,
    is_passed_over,
)
from data_prep.corpora.tars import TAR_SUFFIXES
from lightning_omni.data.storage.locations import Location

log = logging.getLogger(__name__)

ARCHIVES = (
    *TAR_SUFFIXES,
    *(".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.br"),
    *(".zip", ".7z", ".rar", ".zst", ".lz4", ".bz2", ".xz", ".gz"),
)
"""Suffixes of files that hold others, longer ones before their ends."""
_PICTURES, _SOUNDS = IMAGE_SUFFIXES + UNREAD_IMAGES, AUDIO_SUFFIXES + UNREAD_AUDIO


def log_passed_over(layout: ModuleType, sources: Sequence[Location]) -> list[str]:
    """Log one line for each kind of file below folders that the layout does not read.

    These are archives of other kinds, loose media beside tars, media of another kind than the
    layout's, and texts that belong to no medium.

    Returns:
        The lines.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, Location] = {}
    kinds = _kinds_passed_over(layout)
    for source in sources:
        if source.is_dir():
            for kind, path in _iter_passed_over(layout, source, kinds):
                counts[kind] += 1
                examples.setdefault(kind, path)
    lines = [
        f"{count:,} {kind}, such as '{examples[kind]}'" for kind, count in sorted(counts.items())
    ]
    for line in lines:
        log.warning("passed over %s", line)
    return lines


def _kinds_passed_over(layout: ModuleType) -> dict[str, str]:
    """Return what is said of files by suffix."""
    read: tuple[str, ...] = getattr(layout, "SUFFIXES", ())
    described: tuple[str, ...] = getattr(layout, "DESCRIBED", ())
    loose: tuple[str, ...] = ()
    if TAR_SUFFIXES[0] in read:
        loose = _PICTURES + _SOUNDS
    elif described:
        loose = tuple(suffix for suffix in _PICTURES + _SOUNDS if suffix not in described)
    kinds = {suffix: f"{suffix} files, which are not unpacked" for suffix in ARCHIVES}
    kinds |= {suffix: f"{suffix} files, which this corpus does not hold" for suffix in loose}
    return {suffix: what for suffix, what in kinds.items() if suffix not in read}


def _iter_passed_over(
    layout: ModuleType, source: Location, kinds: dict[str, str]
) -> Iterator[tuple[str, Location]]:
    """Yield what is passed over below a folder, each with what is said of its kind."""
    read: tuple[str, ...] = getattr(layout, "SUFFIXES", ())
    suffixes = tuple(kinds)
    for path in find_files(source, suffixes):
        name = path.name.lower()
        if not name.endswith(read or ("/",)):
            yield kinds[next(suffix for suffix in suffixes if name.endswith(suffix))], path
    if hasattr(layout, "SIDECAR") and isinstance(source, Path):
        for path in _lone_texts(source, layout.SIDECAR, layout.DESCRIBED):
            yield f"{layout.SIDECAR} files without a file that they describe", path


def _lone_texts(folder: Path, suffix: str, described: tuple[str, ...]) -> Iterator[Path]:
    """Yield the texts below a folder that stand beside no medium of their name."""
    for above, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        media = {Path(name).stem for name in names if name.lower().endswith(described)}
        for name in sorted(name for name in names if name.endswith(suffix)):
            if name.removesuffix(suffix) not in media and not is_passed_over(name):
                yield Path(above) / name
