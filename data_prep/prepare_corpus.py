"""`prep-data --corpus`: convert a corpus of a published layout to shards of a data folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep.corpora import load_corpus_reader
from data_prep.corpora.corpus_builder import CorpusBuilder
from data_prep.corpora.source_files import expand_sources
from data_prep.data_folder import read_extendable_manifest, write_attribution, write_manifest
from data_prep.shard_folders import lock_data_folder, move_shards, open_unfinished_folder
from data_prep.shard_stream import ShardEntry
from data_prep.streamed_collection import StreamedCollection
from lightning_omni.data.storage.read_counts import log_read_counts
from lightning_omni.data.storage.url_reader import read_counts_so_far
from lightning_omni.data.storage.url_text import is_url, redact_url
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder

log = logging.getLogger(__name__)


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
    paths = expand_sources(sources)
    entry = {
        "name": name,
        "version": "as given",
        "how": " ".join(redact_url(str(s)) if is_url(str(s)) else str(s) for s in sources),
        "split": split,
    }
    make_folder(out)
    _refuse_repeated_corpus(read_extendable_manifest(out), entry, out)
    try:
        with (
            open_unfinished_folder(_unfinished_folder_path(out, entry)) as (folder, keys),
            StreamedCollection(folder, keys) as collection,
        ):
            corpus = CorpusBuilder(name, split, collection, tuple(tasks))
            corpus.add_entries(
                chain.from_iterable(load_corpus_reader(name)(path, split=split) for path in paths)
            )
            if not collection.counts:
                raise OmniError(
                    f"the {name} corpus gives no samples of {', '.join(tasks)}; choose other "
                    "--tasks"
                )
            shards = collection.finish_shards(split)
            with lock_data_folder(out):
                earlier = read_extendable_manifest(out)
                _refuse_repeated_corpus(earlier, entry, out)
                moved = move_shards(folder, shards, out, [s["path"] for s in earlier["shards"]])
                made = _add_corpus_to_manifest(earlier, entry, moved, corpus, collection.counts)
                write_attribution(out, made["sources"])
                manifest = write_manifest(out, {**facts, **made})
    finally:
        with suppress(OSError):
            out.rmdir()  # where nothing was written into it
    log.info("%s: %d entries, %d left out, in %s", name, corpus.good, corpus.bad, out)
    log_read_counts(read_counts_so_far())
    return manifest


def _unfinished_folder_path(out: Path, entry: dict[str, str]) -> Path:
    """Return the folder of unfinished shards, another one for each corpus and split."""
    digest = hashlib.sha256(entry["how"].encode()).hexdigest()[:8]
    name = f"{out.resolve().name}.{entry['name']}-{entry['split']}-{digest}.partial"
    return out.resolve().with_name(name)


def _refuse_repeated_corpus(earlier: dict[str, Any], entry: dict[str, str], out: Path) -> None:
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


def _add_corpus_to_manifest(
    earlier: dict[str, Any],
    entry: dict[str, str],
    shards: list[ShardEntry],
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
