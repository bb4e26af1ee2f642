"""Which steps of an encoding are finished: a record for each, written behind its output."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from lightning_omni.data.encoding.plan import WORK, Step, partial_path


@dataclass(frozen=True, slots=True)
class Record:
    """What a finished step has written.

    Attributes:
        size: Bytes of its output.
        sha256: Digest of its output.
        count: Number of samples or media in it.
    """

    size: int
    sha256: str
    count: int


class Records:
    """The records of a folder of codes.

    Args:
        folder: Folder of codes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, Record] = {}

    def find(self, step: Step) -> Record | None:
        """Return a finished step's record; None unless its output is there with its size."""
        if step.name not in self.known:
            try:
                record = Record(**json.loads(self._path(step).read_text()))
                size = (self.folder / step.output).stat().st_size
            except (OSError, ValueError, TypeError):
                return None
            if size != record.size:
                return None
            self.known[step.name] = record
        return self.known[step.name]

    def write(self, step: Step, count: int) -> Record:
        """Record that a step's output is complete."""
        output = self.folder / step.output
        record = Record(output.stat().st_size, sha256_of(output), count)
        path = self._path(step)
        path.parent.mkdir(exist_ok=True)
        partial = partial_path(path.name, self.folder)
        content = {"size": record.size, "sha256": record.sha256, "count": record.count}
        partial.write_text(json.dumps(content))
        os.replace(partial, path)
        self.known[step.name] = record
        return record

    def forget(self, step: Step) -> None:
        """Remove a record, so that its step is done again."""
        self._path(step).unlink(missing_ok=True)
        self.known.pop(step.name, None)

    def _path(self, step: Step) -> Path:
        return self.folder / WORK / "finished" / f"{step.name}.json"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
