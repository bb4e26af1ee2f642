"""Move a converted corpus into a data folder, and list it in the manifest."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.data_folder import read_extendable_manifest, write_attribution, write_manifest
from data_prep.shard_folders import lock_data_folder, move_shards
from data_prep.shard_stream import ShardEntry
from data_prep.tally import Tally
from lightning_omni.files import make_folder


def publish_corpus(
    work: Path,
    shards: list[ShardEntry],
    out: Path,
    entry: dict[str, str],
    counts: dict[str, int],
    tally: Tally,
    facts: dict[str, Any],
) -> None:
    """Move shards into a data folder and list them, its manifest last.

    Args:
        work: Folder of the shards.
        shards: The shards, numbered from 0.
        out: Data folder, which is made if it does not exist.
        entry: Entry of the corpus in the manifest; where it is listed already, nothing is done.
        counts: Number of samples by task.
        tally: What became of the entries.
        facts: Further entries of the manifest.

    Raises:
        OmniError: If `out` holds other data.
    """
    make_folder(out)
    with lock_data_folder(out):
        earlier = read_extendable_manifest(out)
        if _lists_corpus(earlier, entry):
            return
        moved = move_shards(work, shards, out, [shard["path"] for shard in earlier["shards"]])
        made = _add_corpus_to_manifest(earlier, entry, moved, tally, counts)
        write_attribution(out, made["sources"])
        write_manifest(out, {**facts, **made})


def holds_corpus(out: Path, entry: dict[str, str]) -> bool:
    """Whether a data folder lists a corpus.

    Raises:
        OmniError: If it holds other data.
    """
    return _lists_corpus(read_extendable_manifest(out), entry)


def _lists_corpus(manifest: dict[str, Any], entry: dict[str, str]) -> bool:
    name, how, split = entry["name"], _absolute(entry["how"]), entry["split"]
    splits = {shard["split"] for shard in manifest["shards"]}
    return split in splits and any(
        source["name"] == name
        and _absolute(source["how"]) == how
        and source.get("split", split) == split
        for source in manifest.get("sources", [])
    )


def _absolute(how: str) -> tuple[str, ...]:
    """Return the sources of an entry, paths from the root, so that a folder has one name.

    A relative path of the manifest counts from the folder that this command is called in.
    """
    return tuple(one if "://" in one else os.path.realpath(one) for one in how.split(" "))


def _add_corpus_to_manifest(
    earlier: dict[str, Any],
    entry: dict[str, str],
    shards: list[ShardEntry],
    tally: Tally,
    added: dict[str, int],
) -> dict[str, Any]:
    """Return the entries of the manifest with those of a further corpus."""
    counts = {task: dict(by_split) for task, by_split in earlier.get("counts", {}).items()}
    for task, number in added.items():
        by_split = counts.setdefault(task, {})
        by_split[entry["split"]] = by_split.get(entry["split"], 0) + number
    found = {"licence": "see the corpus", "entries": tally.good, "left_out": tally.bad}
    return {
        "preset": None,
        "sources": [*earlier.get("sources", []), {**entry, **found}],
        "counts": counts,
        "left_out": [*earlier.get("left_out", []), *tally.left_out],
        "shards": [*earlier["shards"], *map(asdict, shards)],
    }
