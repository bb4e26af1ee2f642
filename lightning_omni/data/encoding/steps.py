"""Do one step of a plan: read its source, write its output, record that it is finished."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from functools import cached_property
from pathlib import Path

import torch

from lightning_omni.data.encoding.code_store import (
    Array,
    MediaIndex,
    digest_of,
    write_media_index,
    write_store,
)
from lightning_omni.data.encoding.media_codes import encode_shard
from lightning_omni.data.encoding.plan import (
    MEDIA,
    MEDIA_INDEX,
    REFERENCE_INDEX,
    REFERENCES,
    TASKS,
    Plan,
    Step,
    partial_path,
    sync,
    whole_file,
)
from lightning_omni.data.encoding.records import Record, Records
from lightning_omni.data.encoding.references import (
    ReferenceIndex,
    write_reference_index,
    write_references,
)
from lightning_omni.data.encoding.settings import EncodingSettings, LoadedTokenizers
from lightning_omni.data.encoding.task_shards import write_task_shard
from lightning_omni.data.shard_index import index_path, write_index
from lightning_omni.errors import OmniError


class StepRunner:
    """Does the steps of a plan, one at a time.

    Args:
        settings: What encodes the folder.
        tokenizers: The same, loaded.
        plan: The plan.
        report: Called with the number of media or samples done since it was last called.
    """

    def __init__(
        self,
        settings: EncodingSettings,
        tokenizers: LoadedTokenizers,
        plan: Plan,
        report: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.data, self.folder = settings.local_data, settings.folder
        self.tokenizers, self.plan, self.report = tokenizers, plan, report
        self.records = Records(self.folder)
        self.work = {
            REFERENCES: self._references,
            REFERENCE_INDEX: self._reference_index,
            MEDIA: self._media,
            MEDIA_INDEX: self._media_index,
            TASKS: self._task_shard,
        }

    def run(self, step: Step) -> Record:
        """Do a step and record it; its output appears under its name only when it is complete.

        Raises:
            OmniError: If the shard was changed since the plan was made, or is damaged.
        """
        source = self.data / step.source
        if step.source:
            self._check_source(source, step)
        return self.records.write(step, self.work[step.kind](step, source))

    def close(self) -> None:
        """Close the tables that are open."""
        for name in ("media_index", "reference_index"):
            table = self.__dict__.pop(name, None)
            if table is not None:
                table.close()

    @cached_property
    def media_index(self) -> MediaIndex:
        """The codes of all media."""
        return MediaIndex(self._outputs(MEDIA_INDEX)[0], self._outputs(MEDIA))

    @cached_property
    def reference_index(self) -> ReferenceIndex | None:
        """The roles of all media; None if none matters."""
        if not self.plan.needs_references:
            return None
        return ReferenceIndex(self._outputs(REFERENCE_INDEX)[0])

    def _outputs(self, kind: str) -> list[Path]:
        return [self.folder / step.output for step in self.plan.steps(kind)]

    def _check_source(self, source: Path, step: Step) -> None:
        size = source.stat().st_size if source.is_file() else None
        if size != step.size:
            found = "is missing" if size is None else f"has {size} bytes"
            raise OmniError(
                f"'{source}' {found} but had {step.size} when the encoding was planned: the data "
                f"were changed; restore them, or prepare the data again and delete '{self.folder}'"
            )

    def _references(self, step: Step, source: Path) -> int:
        with whole_file(self.folder / step.output, self.folder) as partial:
            return write_references(partial, source)

    def _reference_index(self, step: Step, source: Path) -> int:
        with whole_file(self.folder / step.output, self.folder) as partial:
            return write_reference_index(partial, self._outputs(REFERENCES))

    def _media_index(self, step: Step, source: Path) -> int:
        with whole_file(self.folder / step.output, self.folder) as partial:
            return write_media_index(partial, self._outputs(MEDIA))

    def _media(self, step: Step, source: Path) -> int:
        def rows() -> Generator[tuple[bytes, Array], None, None]:
            encoded = encode_shard(source, step.stream, self.tokenizers, self.reference_index)
            for key, array in encoded:
                yield digest_of(step.stream, key), array
                self.report(1)

        with (
            whole_file(self.folder / step.output, self.folder) as partial,
            partial.open("wb") as file,
            torch.inference_mode(),
            closing(rows()) as media,
        ):
            return write_store(file, media)

    def _task_shard(self, step: Step, source: Path) -> int:
        """Write a shard, its index first, so that a shard with its name has one."""
        target, partial = self.folder / step.output, partial_path(step.output, self.folder)
        try:
            count = write_task_shard(partial, source, self.plan, self.media_index)
            sync(partial)
            write_index(partial)
            index_path(partial).replace(index_path(target))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
            index_path(partial).unlink(missing_ok=True)
        self.report(count)
        return count
