"""Which media the samples refer to, by role: needed where a role has an encoding of its own.

Pictures in requests may have a size of their own, and only a user's speech has features. Each task
shard gives a file of digests and roles; a table on disk gathers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_omni.data.encoding.code_store import medium_digest
from lightning_omni.data.shards import parse_sample, read_shard
from lightning_omni.jobs.sqlite_tables import create_table, open_table
from lightning_omni.modalities import IMAGE, SPEECH
from lightning_omni.types import Sample

IN_REQUEST, IN_ANSWER = 1, 2
_DIGEST, _ROW = 16, 17


def write_references(path: Path, shard: Path) -> int:
    """Write the pictures and recordings that a task shard's samples refer to; return the samples.

    Args:
        path: File to write: 16 bytes of a digest and one of its roles for each medium, sorted.
        shard: Task shard.
    """
    roles: dict[bytes, int] = {}
    samples = 0
    for key, files in read_shard(shard):
        _collect_roles(parse_sample(key, files, shard), roles)
        samples += 1
    path.write_bytes(b"".join(digest + bytes([role]) for digest, role in sorted(roles.items())))
    return samples


def _collect_roles(sample: Sample, roles: dict[bytes, int]) -> None:
    for turn in sample.turns:
        role = IN_REQUEST if turn.role == "user" else IN_ANSWER
        for part in turn.parts:
            if part.key is not None and part.modality in (IMAGE, SPEECH):
                digest = medium_digest(part.modality, part.key)
                roles[digest] = roles.get(digest, 0) | role


def write_reference_index(path: Path, references: Sequence[Path]) -> int:
    """Write the table of the media in all files of references; return their number."""
    insert = (
        "INSERT INTO media VALUES (?, ?) ON CONFLICT DO UPDATE SET roles = roles | excluded.roles"
    )
    with create_table(path) as table:
        table.execute("CREATE TABLE media (digest BLOB PRIMARY KEY, roles INT) WITHOUT ROWID")
        for one in references:
            raw = one.read_bytes()
            starts = range(0, len(raw), _ROW)
            rows = ((raw[i : i + _DIGEST], raw[i + _DIGEST]) for i in starts)
            table.executemany(insert, rows)
            table.commit()
        (count,) = table.execute("SELECT count(*) FROM media").fetchone()
    return int(count)


class ReferenceIndex:
    """Tells in which roles a medium is used.

    Args:
        path: Table written by `write_reference_index`.
    """

    def __init__(self, path: Path) -> None:
        self.table = open_table(path)

    def roles(self, modality: str, key: str) -> int:
        """Return the roles of a medium, a sum of `IN_REQUEST` and `IN_ANSWER`; 0 if it has none."""
        query = "SELECT roles FROM media WHERE digest = ?"
        found = self.table.execute(query, (medium_digest(modality, key),)).fetchone()
        return int(found[0]) if found else 0

    def close(self) -> None:
        """Close the file."""
        self.table.close()
