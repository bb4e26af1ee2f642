"""Adapters: corpora in their published layouts become the same shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.corpora import (
    audio_transcripts,
    blip3o,
    common_voice,
    image_folder,
    journeydb,
    librispeech,
    libritts,
    llava_onevision,
    messages,
)
from data_prep.corpora.entries import Entry, Gathered
from data_prep.writer import MANIFEST, attribution, read_manifest, write_into
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder

log = logging.getLogger(__name__)

CORPORA: dict[str, Callable[..., Iterator[Entry]]] = {
    "image_folder": image_folder.read,
    "audio_transcripts": audio_transcripts.read,
    "messages": messages.read,
    "librispeech": librispeech.read,
    "libritts": libritts.read,
    "common_voice": common_voice.read,
    "journeydb": journeydb.read,
    "blip3o": blip3o.read,
    "llava_onevision": llava_onevision.read,
}


def prepare_corpus(
    name: str, source: Path, out: Path, *, split: str, about: dict[str, Any]
) -> dict[str, Any]:
    """Write a corpus as shards of one split and return the manifest.

    A folder may be filled by several calls, one per split.

    Raises:
        OmniError: If the source cannot be read, or `out` already holds the split.
    """
    if not source.exists():
        raise OmniError(f"no file or folder '{source}'; check --source")
    make_folder(out)
    earlier = read_manifest(out) if (out / MANIFEST).is_file() else {"shards": [], "sources": []}
    if not isinstance(earlier.get("shards"), list) or earlier.get("preset"):
        raise OmniError(f"'{out}' holds other data; choose another --out")
    taken = [s for s in earlier["shards"] if s["split"] == split]
    if taken:
        raise OmniError(f"'{out}' already holds the split {split}; choose another --out or --split")
    gathered = Gathered(name, split)
    gathered.add_all(CORPORA[name](source, split=split))
    where = {"name": name, "version": "as given", "how": str(source), "licence": "see the corpus"}
    sources = [*earlier.get("sources", []), where]
    counts = {**earlier.get("counts", {})}
    for task, found in gathered.collection.counts().items():
        counts[task] = {**counts.get(task, {}), **found}
    left_out = [*earlier.get("left_out", []), *gathered.bad]
    facts = {"preset": None, "sources": sources, "counts": counts, "left_out": left_out}
    manifest = write_into(gathered.collection, out, {**about, **facts}, earlier=earlier["shards"])
    (out / "ATTRIBUTION.md").write_text(attribution(sources), encoding="utf-8")
    log.info("%s: %d entries, %d left out, in %s", name, gathered.good, len(gathered.bad), out)
    return manifest
