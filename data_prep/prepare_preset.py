"""`prep-data --preset`: build one of the sizes of EmojiWorld into a data folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from data_prep.collection import Collection
from data_prep.data_folder import check_replaceable, replace_data_folder, write_attribution
from data_prep.emojiworld.build_world import build_world
from data_prep.package_versions import package_versions
from data_prep.presets import PRESETS
from data_prep.sources import Sources
from data_prep.speech.espeak import close_espeak
from lightning_omni.files import make_folder

log = logging.getLogger("data_prep")


def prepare_preset(
    name: str, out: Path | None, *, cache: Path, online: bool = True
) -> dict[str, Any]:
    """Build a preset and return its manifest.

    Args:
        name: Name of the preset.
        out: Data folder to write; None for `data/NAME`.
        cache: Folder that keeps downloads and synthetic speech between builds.
        online: Allow npm and apt to download packages.

    Raises:
        OmniError: If a source without fallback is missing, or `out` holds other data.
    """
    start = time.monotonic()
    sources = Sources(cache.expanduser().resolve(), online=online)
    folder = out or Path("data") / name
    check_replaceable(folder, name)
    make_folder(sources.cache)
    try:
        built = build_world(PRESETS[name], sources)
    finally:
        close_espeak()
    collection = built.collection
    facts = {
        **built.facts,
        **package_versions(),
        "counts": collection.count_samples(),
        "train_licences": collection.count_licences("train"),
    }
    manifest = replace_data_folder(collection, folder, facts)
    write_attribution(folder, facts["sources"])
    _log_sample_counts(collection, folder, time.monotonic() - start)
    return manifest


def _log_sample_counts(collection: Collection, folder: Path, seconds: float) -> None:
    for task, counts in collection.count_samples().items():
        log.info("%-8s %s", task, "  ".join(f"{s} {n}" for s, n in counts.items()))
    log.info("%s is ready after %.0f s", folder, seconds)
