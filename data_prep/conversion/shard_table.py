"""Which items of all pieces go to which shard, each item once: a table on disk.

Media are stored in the order of the corpus. Samples are, too, but within a shard by their key, a
hash, so that the first samples of a shard are any of its samples.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from data_prep.conversion.piece_file import read_rows, read_tally
from data_prep.data_folder import MEDIA_PER_SHARD, SAMPLES_PER_SHARD
from data_prep.key_set import KeySet
from data_prep.tally import Tally
from lightning_omni.jobs.sqlite_tables import create_table, open_table

_MEDIA = "media/"
_CREATE = "CREATE TABLE shards (path TEXT PRIMARY KEY, items INT, bytes INT, ranges BLOB)"


class PlannedShard(NamedTuple):
    """A shard to be written.

    Attributes:
        path: Path relative to the folder of shards.
        items: Number of items.
        size: Bytes of the items.
    """

    path: str
    items: int
    size: int


def write_shard_table(
    path: Path, pieces: Sequence[Path], keys: KeySet, *, split: str, max_unusable: float
) -> tuple[dict[str, int], Tally]:
    """Divide the items of all pieces into shards.

    Args:
        path: File to write.
        pieces: Files of the pieces in the order of the corpus.
        keys: An empty set for the keys of all items.
        split: Split, for the names of the shards.
        max_unusable: Largest share of unusable entries that is skipped.

    Returns:
        Number of samples by task, and what became of the entries.

    Raises:
        UnusableCorpusError: If too many entries are unusable.
    """
    tally = Tally(max_share=max_unusable)
    with create_table(path) as table:
        table.execute(_CREATE)
        division = _ShardDivision(table, split)
        for number, piece in enumerate(pieces):
            tally.add(read_tally(piece))
            for row in read_rows(piece):
                if keys.add_key(row.kind, row.key):
                    division.add_item(row.kind, row.key, (number, row.start, row.size))
        division.note_unfilled_shards()
        table.execute("CREATE TABLE facts (counts TEXT, tally TEXT)")
        facts = json.dumps(division.counts), json.dumps({**asdict(tally), "good_before": []})
        table.execute("INSERT INTO facts VALUES (?, ?)", facts)
        table.commit()
    return division.counts, tally


class _ShardDivision:
    """Collects the items of a shard for each kind, and notes the shard when it is full."""

    def __init__(self, table: sqlite3.Connection, split: str) -> None:
        self.counts: Counter[str] = Counter()
        """Number of samples by task."""
        self._table, self._split = table, split
        self._waiting: dict[str, list[tuple[str, tuple[int, int, int]]]] = {}
        self._shards: Counter[str] = Counter()

    def add_item(self, kind: str, key: str, position: tuple[int, int, int]) -> None:
        is_medium = kind.startswith(_MEDIA)
        if not is_medium:
            self.counts[kind.rpartition("/")[2]] += 1
        waiting = self._waiting.setdefault(kind, [])
        waiting.append((key, position))
        if len(waiting) == (MEDIA_PER_SHARD if is_medium else SAMPLES_PER_SHARD):
            self._note_shard(kind)

    def note_unfilled_shards(self) -> None:
        """Note the shards that are not full."""
        for kind, waiting in self._waiting.items():
            if waiting:
                self._note_shard(kind)

    def _note_shard(self, kind: str) -> None:
        waiting = self._waiting[kind]
        if not kind.startswith(_MEDIA):
            waiting.sort()
        ranges = np.array([position for _, position in waiting], dtype=np.int64)
        name = f"{kind}-{self._split}-{self._shards[kind]:06d}.tar"
        row = name, len(waiting), int(ranges[:, 2].sum()), ranges.tobytes()
        self._table.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", row)
        self._shards[kind] += 1
        waiting.clear()


class ShardTable:
    """Reads a table of shards.

    Args:
        path: File written by `write_shard_table`.
    """

    def __init__(self, path: Path) -> None:
        self._table = open_table(path)

    def planned_shards(self) -> list[PlannedShard]:
        """Return all shards by path."""
        rows = self._table.execute("SELECT path, items, bytes FROM shards ORDER BY path")
        return [PlannedShard(*row) for row in rows]

    def item_ranges(self, path: str) -> Int64[np.ndarray, "N 3"]:
        """Return number of the piece, first byte and bytes of each item of a shard."""
        row = self._table.execute("SELECT ranges FROM shards WHERE path = ?", (path,)).fetchone()
        return np.frombuffer(row[0], dtype=np.int64).reshape(-1, 3)

    def counts_and_tally(self) -> tuple[dict[str, int], Tally]:
        """Return the number of samples by task, and what became of the entries."""
        counts, tally = self._table.execute("SELECT counts, tally FROM facts").fetchone()
        return json.loads(counts), Tally(**json.loads(tally))

    def close(self) -> None:
        """Close the file."""
        self._table.close()
