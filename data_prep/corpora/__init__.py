"""Converters from the published layouts of corpora to shards, one module per layout."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from data_prep.corpora.entries import CorpusBuilder, Entry
from data_prep.writer import attribution, write_into
from lightning_omni.data.shards import MANIFEST, read_manifest
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder

log = logging.getLogger(__name__)

_HELPERS = ("entries", "files")
CORPORA = tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _HELPERS)
"""Names of the layouts: modules of this folder with a function `read(source, *, split)`."""


def reader(name: str) -> Callable[..., Iterator[Entry]]:
    """Return the function that reads a layout."""
    read: Callable[..., Iterator[Entry]] = import_module(f"{__name__}.{name}").read
    return read


def prepare_corpus(
    name: str, source: Path, out: Path, *, split: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """Convert a corpus to shards of one split and return the manifest.

    Several calls, one per split, may fill the same folder.

    Args:
        name: Name of the layout, one of `CORPORA`.
        source: Folder or file of the corpus.
        out: Data folder to write into.
        split: Split that the samples belong to.
        facts: Further entries of the manifest.

    Raises:
        OmniError: If the source cannot be read, or `out` holds other data or the same split.
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
    corpus = CorpusBuilder(name, split)
    corpus.add_all(reader(name)(source, split=split))
    entry = {"name": name, "version": "as given", "how": str(source), "licence": "see the corpus"}
    sources = [*earlier.get("sources", []), entry]
    counts = {**earlier.get("counts", {})}
    for task, by_split in corpus.collection.counts().items():
        counts[task] = {**counts.get(task, {}), **by_split}
    left_out = [*earlier.get("left_out", []), *corpus.bad]
    found = {"preset": None, "sources": sources, "counts": counts, "left_out": left_out}
    manifest = write_into(corpus.collection, out, {**facts, **found}, earlier=earlier["shards"])
    (out / "ATTRIBUTION.md").write_text(attribution(sources), encoding="utf-8")
    log.info("%s: %d entries, %d left out, in %s", name, corpus.good, len(corpus.bad), out)
    return manifest
