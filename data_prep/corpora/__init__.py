"""Converters from the published layouts of corpora to shards, one module per layout."""

from __future__ import annotations

import hashlib
import logging
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep.corpora.entries import CorpusBuilder, Entry
from data_prep.corpora.files import existing_sources
from data_prep.shard_stream import Shard
from data_prep.streaming import StreamedCollection, locked, move_shards, unfinished_folder
from data_prep.writer import attribution, write_manifest
from lightning_omni.data.shards import MANIFEST, read_manifest
from lightning_omni.data.storage.counts import log_counts
from lightning_omni.data.storage.store import counts_so_far
from lightning_omni.data.storage.urls import is_url, shown
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder

log = logging.getLogger(__name__)

_HELPERS = ("entries", "files", "json_list", "parquet", "tars", "transcripts")
CORPORA = tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _HELPERS)
"""Names of the layouts: modules of this folder with a function `read(source, *, split)`."""


def reader(name: str) -> Callable[..., Iterator[Entry]]:
    """Return the function that reads a layout."""
    read: Callable[..., Iterator[Entry]] = import_module(f"{__name__}.{name}").read
    return read


def prepare_corpus(
    name: str,
    sources: Sequence[str | Path],
    out: Path,
    *,
    split: str,
    facts: dict[str, Any],
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """Convert a corpus to shards of one split and return the manifest.

    Several calls, one per corpus and split, may fill the same folder, also at the same time. Memory
    does not grow with the corpus. The folder changes when the corpus was read to its end.

    Args:
        name: Name of the layout, one of `CORPORA`.
        sources: Folders, files or URLs of the corpus; braces stand for several, as in
            `{000..012}.tar`.
        out: Data folder to write into.
        split: Split that the samples belong to.
        facts: Further entries of the manifest.
        tasks: Tasks to make samples of; none for all that the entries give.

    Raises:
        OmniError: If a source cannot be read, or `out` holds other data or this corpus.
    """
    paths = existing_sources(sources)
    entry = {
        "name": name,
        "version": "as given",
        "how": " ".join(shown(str(s)) if is_url(str(s)) else str(s) for s in sources),
        "split": split,
    }
    make_folder(out)
    _refuse_repeated(_earlier(out), entry, out)
    try:
        with (
            unfinished_folder(_folder_beside(out, entry)) as (folder, keys),
            StreamedCollection(folder, keys) as collection,
        ):
            corpus = CorpusBuilder(name, split, collection, tuple(tasks))
            corpus.add_all(chain.from_iterable(reader(name)(path, split=split) for path in paths))
            if not collection.counts:
                raise OmniError(
                    f"the {name} corpus gives no samples of {', '.join(tasks)}; choose other "
                    "--tasks"
                )
            shards = collection.finish(split)
            with locked(out):
                earlier = _earlier(out)
                _refuse_repeated(earlier, entry, out)
                moved = move_shards(folder, shards, out, [s["path"] for s in earlier["shards"]])
                made = _with_corpus(earlier, entry, moved, corpus, collection.counts)
                (out / "ATTRIBUTION.md").write_text(attribution(made["sources"]), encoding="utf-8")
                manifest = write_manifest(out, {**facts, **made})
    finally:
        with suppress(OSError):
            out.rmdir()  # where nothing was written into it
    log.info("%s: %d entries, %d left out, in %s", name, corpus.good, corpus.bad, out)
    log_counts(counts_so_far())
    return manifest


def _folder_beside(out: Path, entry: dict[str, str]) -> Path:
    """Return the folder of unfinished shards, another one for each corpus and split."""
    digest = hashlib.sha256(entry["how"].encode()).hexdigest()[:8]
    name = f"{out.resolve().name}.{entry['name']}-{entry['split']}-{digest}.partial"
    return out.resolve().with_name(name)


def _earlier(out: Path) -> dict[str, Any]:
    """Return the manifest of a folder of corpora, an empty one if there is none."""
    if not (out / MANIFEST).is_file():
        return {"shards": [], "sources": []}
    earlier = read_manifest(out)
    if not isinstance(earlier.get("shards"), list) or earlier.get("preset"):
        raise OmniError(f"'{out}' holds other data; choose another --out")
    return earlier


def _refuse_repeated(earlier: dict[str, Any], entry: dict[str, str], out: Path) -> None:
    """Refuse a corpus that the folder already holds."""
    name, how, split = entry["name"], entry["how"], entry["split"]
    splits = {shard["split"] for shard in earlier["shards"]}
    for source in earlier.get("sources", []):
        is_same = source["name"] == name and source["how"] == how
        if is_same and split in splits and source.get("split", split) == split:
            raise OmniError(
                f"'{out}' already holds the split {split} of {name} '{how}'; choose another "
                "--out, --source or --split"
            )


def _with_corpus(
    earlier: dict[str, Any],
    entry: dict[str, str],
    shards: list[Shard],
    corpus: CorpusBuilder,
    added: dict[str, int],
) -> dict[str, Any]:
    """Return the entries of the manifest with those of a further corpus."""
    counts = {task: dict(by_split) for task, by_split in earlier.get("counts", {}).items()}
    for task, number in added.items():
        by_split = counts.setdefault(task, {})
        by_split[entry["split"]] = by_split.get(entry["split"], 0) + number
    found = {"licence": "see the corpus", "entries": corpus.good, "left_out": corpus.bad}
    return {
        "preset": None,
        "sources": [*earlier.get("sources", []), {**entry, **found}],
        "counts": counts,
        "left_out": [*earlier.get("left_out", []), *corpus.left_out],
        "shards": [*earlier["shards"], *map(asdict, shards)],
    }
