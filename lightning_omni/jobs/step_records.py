"""Which steps of a job are finished: a record for each, written behind its output."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from lightning_omni.files import file_sha256
from lightning_omni.jobs.steps import Step
from lightning_omni.jobs.work_folder import partial_path


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a finished step has written.

    Attributes:
        size: Bytes of its output.
        sha256: Digest of its output.
        count: Number of items in it.
    """

    size: int
    sha256: str
    count: int


class StepRecords:
    """The records of a job.

    Args:
        folder: Folder of the outputs.
        work: Work folder of the job.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work
        self.known: dict[str, StepRecord] = {}

    def find(self, step: Step) -> StepRecord | None:
        """Return a finished step's record; None unless its output is there with its size."""
        if step.name not in self.known:
            try:
                record = StepRecord(**json.loads(self._record_path(step).read_text("utf-8")))
                size = (self.folder / step.output).stat().st_size
            except (OSError, ValueError, TypeError):
                return None
            if size != record.size:
                return None
            self.known[step.name] = record
        return self.known[step.name]

    def write(self, step: Step, count: int) -> StepRecord:
        """Record that a step's output is complete."""
        output = self.folder / step.output
        record = StepRecord(output.stat().st_size, file_sha256(output), count)
        path = self._record_path(step)
        path.parent.mkdir(exist_ok=True)
        partial = partial_path(path.name, self.work)
        content = {"size": record.size, "sha256": record.sha256, "count": record.count}
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, path)
        self.known[step.name] = record
        return record

    def forget(self, step: Step) -> None:
        """Remove a record, so that its step is done again."""
        self._record_path(step).unlink(missing_ok=True)
        self.known.pop(step.name, None)

    def _record_path(self, step: Step) -> Path:
        return self.work / "finished" / f"{step.name}.json"
