"""Encoding as a job: its steps, each of which writes one file."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from contextlib import closing
from functools import cached_property
from pathlib import Path

import torch

from lightning_omni.data.encoding.code_index import CodeIndex, write_code_index
from lightning_omni.data.encoding.code_store import Array, medium_digest, write_code_store
from lightning_omni.data.encoding.loaded_tokenizers import LoadedTokenizers
from lightning_omni.data.encoding.manifest import write_manifest
from lightning_omni.data.encoding.media_codes import encode_media_shard
from lightning_omni.data.encoding.plan import (
    MEDIA,
    MEDIA_INDEX,
    REFERENCE_INDEX,
    REFERENCES,
    TASKS,
    make_plan,
    write_or_check_plan,
)
from lightning_omni.data.encoding.references import (
    ReferenceIndex,
    write_reference_index,
    write_references,
)
from lightning_omni.data.encoding.settings import EncodingSettings
from lightning_omni.data.encoding.task_shards import write_task_shard
from lightning_omni.data.encoding.work_folder import WORK, remove_work_folder
from lightning_omni.data.indexed_shard import write_indexed_shard
from lightning_omni.data.manifest import MANIFEST, read_shard_list
from lightning_omni.data.shard_checks import check_listed_shard
from lightning_omni.data.shard_index import index_path
from lightning_omni.data.shards import check_sha256
from lightning_omni.errors import OmniError
from lightning_omni.jobs.job import JobNames
from lightning_omni.jobs.step_records import StepRecords
from lightning_omni.jobs.steps import Step
from lightning_omni.jobs.work_folder import write_when_complete

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_NAMES = JobNames(
    "encoding",
    steps={MEDIA: "media shards", TASKS: "task shards"},
    items={MEDIA: "media", TASKS: "samples"},
)


class EncodingJob:
    """Turns the media of a data folder into codes.

    Args:
        settings: What encodes the folder.
        device: Device of the tokenizers.

    Raises:
        OmniError: If something is missing.
    """

    def __init__(self, settings: EncodingSettings, device: torch.device) -> None:
        self.settings, self.data = settings, settings.local_data
        self.folder = settings.local_codes_folder
        self.tokenizers = LoadedTokenizers(settings, device)
        self.plan = make_plan(settings, self.tokenizers)
        self.work = self.folder / WORK
        self.records = StepRecords(self.folder, self.work)
        self.names, self.array_kind = _NAMES, MEDIA
        self.on_progress: Callable[[int], None] = lambda count: None
        self._phases = self.plan.phases()
        self.runs_by_kind = {
            REFERENCES: self._write_references,
            REFERENCE_INDEX: self._write_reference_index,
            MEDIA: self._encode_media_shard,
            MEDIA_INDEX: self._write_code_index,
            TASKS: self._write_task_shard,
        }

    def agree_on_plan(self) -> None:
        """Write the plan into a folder that has none.

        Raises:
            PlanMismatchError: If the folder was begun by another plan.
        """
        write_or_check_plan(self.plan, self.folder)

    def phase_steps(self, number: int) -> list[Step] | None:
        """Return the steps of a phase; None behind the last."""
        return self._phases[number] if number < len(self._phases) else None

    def run_step(self, step: Step) -> int:
        """Do a step and return the number of media or samples in its output.

        Raises:
            OmniError: If the shard was changed since the plan was made, or is damaged.
        """
        source = self.data / step.source
        if step.source:
            self._check_source(source, step)
        return self.runs_by_kind[step.kind](step, source)

    def finish(self) -> None:
        """Write the manifest, after the shards are checked."""
        write_manifest(self.settings, self.tokenizers, self.plan, self.records)

    def is_complete(self) -> bool:
        """Whether the folder has its manifest, which is written last."""
        return (self.folder / MANIFEST).is_file()

    def remove_work_folder(self) -> None:
        """Remove what led to the codes."""
        remove_work_folder(self.folder)

    def explain_error(self, error: Exception) -> OmniError | None:
        """Return a sentence about an error of the disk; None for other errors."""
        if isinstance(error, OSError) and error.errno not in _DISK_ERRORS:
            return None
        return OmniError(
            f"stopped while writing the codes into '{self.folder}' ({error}); is the disk full or "
            "read-only? The same command goes on from there"
        )

    def close(self) -> None:
        """Close the tables that are open."""
        for name in ("code_index", "reference_index"):
            table = self.__dict__.pop(name, None)
            if table is not None:
                table.close()

    @cached_property
    def code_index(self) -> CodeIndex:
        """The codes of all media."""
        return CodeIndex(self._output_paths(MEDIA_INDEX)[0], self._output_paths(MEDIA))

    @cached_property
    def reference_index(self) -> ReferenceIndex | None:
        """The roles of all media; None if none matters."""
        if not self.plan.needs_references:
            return None
        return ReferenceIndex(self._output_paths(REFERENCE_INDEX)[0])

    def _output_paths(self, kind: str) -> list[Path]:
        return [self.folder / step.output for step in self.plan.steps_of_kind(kind)]

    def _check_source(self, source: Path, step: Step) -> None:
        size = source.stat().st_size if source.is_file() else None
        if size != step.size:
            found = "is missing" if size is None else f"has {size} bytes"
            raise OmniError(
                f"'{source}' {found} but had {step.size} when the encoding was planned: the data "
                f"were changed; restore them, or prepare the data again and delete '{self.folder}'"
            )
        listed = (read_shard_list(source.parent) or {}).get(source.name)
        if listed is None:
            return
        check_listed_shard(source.parent, source.name, listed)
        if listed.sha256 is not None and not index_path(source).is_file():
            check_sha256(source, listed.sha256)

    def _write_references(self, step: Step, source: Path) -> int:
        with write_when_complete(self.folder / step.output, self.work) as partial:
            return write_references(partial, source)

    def _write_reference_index(self, step: Step, source: Path) -> int:
        with write_when_complete(self.folder / step.output, self.work) as partial:
            return write_reference_index(partial, self._output_paths(REFERENCES))

    def _write_code_index(self, step: Step, source: Path) -> int:
        with write_when_complete(self.folder / step.output, self.work) as partial:
            return write_code_index(partial, self._output_paths(MEDIA))

    def _encode_media_shard(self, step: Step, source: Path) -> int:
        def encode_rows() -> Generator[tuple[bytes, Array], None, None]:
            encoded = encode_media_shard(source, step.stream, self.tokenizers, self.reference_index)
            for key, array in encoded:
                yield medium_digest(step.stream, key), array
                self.on_progress(1)

        with (
            write_when_complete(self.folder / step.output, self.work) as partial,
            partial.open("wb") as file,
            torch.inference_mode(),
            closing(encode_rows()) as media,
        ):
            return write_code_store(file, media)

    def _write_task_shard(self, step: Step, source: Path) -> int:
        """Write a shard, its index first, so that a shard with its name has one."""
        with write_indexed_shard(self.folder / step.output, self.work) as partial:
            count = write_task_shard(partial, source, self.plan, self.code_index)
        self.on_progress(count)
        return count
