"""The conversion of a corpus as a job: pieces, a table of shards, shards, and their publication."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from data_prep.conversion.piece_file import PieceWriter, read_tally
from data_prep.conversion.pieces import Piece, PieceReader, divide_into_pieces
from data_prep.conversion.publication import holds_corpus, publish_corpus
from data_prep.conversion.shard_table import ShardTable, write_shard_table
from data_prep.corpora import load_layout
from data_prep.corpora.corpus_builder import CorpusBuilder
from data_prep.corpora.passed_over import log_passed_over
from data_prep.corpora.source_files import expand_sources
from data_prep.key_set import KeySet
from data_prep.shard_stream import ShardEntry, tar_end
from data_prep.tally import MAX_UNUSABLE_SHARE, Tally, UnusableCorpusError
from lightning_omni.data.indexed_shard import write_indexed_shard
from lightning_omni.data.shard_index import index_path, write_index
from lightning_omni.data.storage.url_text import is_url, redact_url
from lightning_omni.errors import OmniError
from lightning_omni.files import OpenFiles
from lightning_omni.jobs.job import JobNames
from lightning_omni.jobs.step_records import StepRecords
from lightning_omni.jobs.steps import Step
from lightning_omni.jobs.work_folder import partial_path, write_when_complete

PIECE, TABLE, SHARD = "pieces", "table", "shards"
PARTIAL = ".partial"
_PLAN = "plan.json"
_OPEN_FILES = 32
_NAMES = JobNames(
    "preparing", steps={PIECE: "pieces", SHARD: "shards"}, items={PIECE: "entries", SHARD: "items"}
)


@dataclass(frozen=True)
class CorpusRequest:
    """What is converted, and to where.

    Attributes:
        corpus: Name of the layout.
        sources: Folders, files or URLs of the corpus; braces stand for several.
        out: Data folder to write into.
        split: Split that the samples belong to.
        tasks: Tasks to make samples of; none for all that the entries give.
        facts: Further entries of the manifest.
        max_unusable: Largest share of unusable entries that is skipped.
    """

    corpus: str
    sources: tuple[str, ...]
    out: Path
    split: str
    tasks: tuple[str, ...]
    facts: dict[str, Any]
    max_unusable: float = MAX_UNUSABLE_SHARE

    @property
    def manifest_entry(self) -> dict[str, str]:
        """Entry of the corpus in the manifest."""
        how = " ".join(redact_url(s) if is_url(s) else s for s in self.sources)
        return {"name": self.corpus, "version": "as given", "how": how, "split": self.split}

    @property
    def parent_folder(self) -> Path:
        """Folder that holds the data folder, and what is unfinished beside it."""
        return self.out.resolve().parent

    @property
    def work_prefix(self) -> str:
        """Beginning of the names of unfinished folders, another for each corpus and split."""
        entry = self.manifest_entry
        digest = _short_hash(entry["how"])
        return f"{self.out.resolve().name}.{entry['name']}-{entry['split']}-{digest}-"


class CorpusJob:
    """Converts a corpus.

    First each piece becomes a file of items, then a table tells which items go to which shard, then
    each shard is copied together, and in the end all are moved into the data folder.

    Args:
        request: What is converted.
        pieces: The pieces, if they are known.

    Raises:
        OmniError: If a source cannot be read.
    """

    def __init__(self, request: CorpusRequest, pieces: Sequence[Piece] | None = None) -> None:
        self.request = request
        self.layout = load_layout(request.corpus)
        self.pieces = _find_pieces(request, self.layout) if pieces is None else pieces
        self.reader = PieceReader(self.layout, request.split)
        self.plan = _plan_as_json(request, self.pieces)
        self.work = (
            request.parent_folder / f"{request.work_prefix}{_short_hash(self.plan)}{PARTIAL}"
        )
        self.records = StepRecords(self.work, self.work)
        self.names, self.array_kind = _NAMES, PIECE
        self.on_progress: Callable[[int], None] = lambda count: None
        self._tally_before = Tally(max_share=request.max_unusable)
        self._num_checked, self._is_useless = 0, False
        self._files = OpenFiles(_OPEN_FILES)
        self._runs_by_kind = {
            PIECE: self._convert_piece,
            TABLE: self._write_table,
            SHARD: self._write_shard,
        }

    def agree_on_plan(self) -> None:
        """Note the plan, whose hash is in the name of the folder."""
        path = self.work / _PLAN
        if not path.exists():
            with write_when_complete(path, self.work) as partial:
                partial.write_text(self.plan, encoding="utf-8")

    def phase_steps(self, number: int) -> list[Step] | None:
        """Return the steps of a phase; None behind the last."""
        if number == 0:
            return self._piece_steps
        if number == 1:
            return [Step(TABLE, TABLE, f"{TABLE}.sqlite")]
        return self._shard_steps if number == 2 else None

    def run_step(self, step: Step) -> int:
        """Do a step and return the number of entries or items in its output."""
        try:
            return self._runs_by_kind[step.kind](step)
        except OmniError as error:
            self._is_useless = self._cannot_go_on(error)
            raise

    def finish(self) -> None:
        """Move the shards into the data folder and list them in its manifest."""
        counts, tally = self._shard_table.counts_and_tally()
        shards = [self._shard_entry(step) for step in self._shard_steps]
        request = self.request
        publish_corpus(
            self.work, shards, request.out, request.manifest_entry, counts, tally, request.facts
        )
        (self.work / _PLAN).unlink()

    def is_complete(self) -> bool:
        """Whether the data folder lists the corpus."""
        return not (self.work / _PLAN).exists() and holds_corpus(
            self.request.out, self.request.manifest_entry
        )

    def remove_work_folder(self) -> None:
        """Remove the folder of what was unfinished, from one moment to the next for others."""
        aside = self.work.with_name(f"{self.work.stem}-{uuid.uuid4().hex[:8]}{PARTIAL}")
        with suppress(FileNotFoundError):
            self.work.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def clear_after(self, error: OmniError) -> None:
        """Remove what nobody can go on with, after all processes have ended with an error."""
        if self._cannot_go_on(error):
            self.remove_work_folder()

    def close(self) -> None:
        """Close the files that are open, and remove what nobody can go on with."""
        self._files.close()
        table = self.__dict__.pop("_shard_table", None)
        if table is not None:
            table.close()
        if self._is_useless:
            self.remove_work_folder()

    def explain_error(self, error: Exception) -> OmniError | None:
        """Return a sentence about an error of the disk."""
        if not self.work.is_dir():
            return OmniError(
                f"'{self.work}' is gone: another process found the corpus unusable and says why, "
                "or somebody deleted it"
            )
        return OmniError(
            f"stopped while writing '{self.work}' ({error}); is the disk full, or a source not "
            "readable? The same command goes on from there"
        )

    def _cannot_go_on(self, error: OmniError) -> bool:
        return isinstance(error, UnusableCorpusError) or not any((self.work / "finished").glob("*"))

    @cached_property
    def _piece_steps(self) -> list[Step]:
        return [
            Step(
                PIECE, _piece_name(i), f"{PIECE}/{_piece_name(i)}", piece.name, size=piece.work_size
            )
            for i, piece in enumerate(self.pieces)
        ]

    @cached_property
    def _piece_files(self) -> list[Path]:
        return [self.work / step.output for step in self._piece_steps]

    @cached_property
    def _shard_table(self) -> ShardTable:
        return ShardTable(self.work / f"{TABLE}.sqlite")

    @cached_property
    def _shard_steps(self) -> list[Step]:
        return [
            Step(SHARD, shard.path.replace("/", "."), shard.path, shard.path, size=shard.size)
            for shard in self._shard_table.planned_shards()
        ]

    def _convert_piece(self, step: Step) -> int:
        number = int(step.name.rpartition("-")[2])
        self._check_earlier_pieces(number)
        with (
            write_when_complete(self.work / step.output, self.work) as partial,
            partial.open("wb") as file,
            tempfile.TemporaryFile(dir=partial.parent) as rows,
        ):
            writer, request = PieceWriter(file, rows), self.request
            tally = Tally(max_share=request.max_unusable)
            builder = CorpusBuilder(request.corpus, request.split, writer, request.tasks, tally)
            entries = self.reader.read_entries(self.pieces[number])
            builder.add_entries(entries, is_first=number == 0, on_progress=self.on_progress)
            writer.write_rows_and_tally(builder.tally)
        return builder.tally.good

    def _check_earlier_pieces(self, number: int) -> None:
        """Stop at a corpus that cannot pass, by the pieces in its beginning that are finished."""
        for step in self._piece_steps[self._num_checked : number]:
            if self.records.find(step) is None:
                return
            self._tally_before.add(read_tally(self.work / step.output))
            self._num_checked += 1

    def _write_table(self, step: Step) -> int:
        keys_path = partial_path("keys.sqlite", self.work)
        try:
            with (
                write_when_complete(self.work / step.output, self.work) as partial,
                closing(KeySet(keys_path)) as keys,
            ):
                counts, tally = write_shard_table(
                    partial,
                    self._piece_files,
                    keys,
                    split=self.request.split,
                    max_unusable=self.request.max_unusable,
                )
                tally.check_all(self.request.corpus)
                if not counts:
                    raise UnusableCorpusError(
                        f"the {self.request.corpus} corpus gives no samples of "
                        f"{', '.join(self.request.tasks)}; choose other --tasks"
                    )
        finally:
            keys_path.unlink(missing_ok=True)
        return tally.good

    def _write_shard(self, step: Step) -> int:
        """Write a shard, its index first, so that a shard with its name has one."""
        target = self.work / step.output
        target.parent.mkdir(exist_ok=True)
        ranges = self._shard_table.item_ranges(step.source)
        with write_indexed_shard(target, self.work) as partial, partial.open("wb") as file:
            for number, start, size in ranges.tolist():
                descriptor = self._files.descriptor(self._piece_files[number])
                file.write(os.pread(descriptor, size, start))
                self.on_progress(1)
            file.write(tar_end(file.tell()))
        return len(ranges)

    def _shard_entry(self, step: Step) -> ShardEntry:
        """Return the entry of a shard in the manifest, whose index is beside it."""
        record, path = self.records.find(step), self.work / step.output
        if record is None:
            raise OmniError(f"'{path}' is gone; start the command again, which writes it")
        if not index_path(path).is_file():  # moved by a process that was killed before the shard
            write_index(path)
        kind = Path(step.output).name.rsplit("-", 2)[0]
        return ShardEntry(
            step.output, kind, self.request.split, record.count, record.size, record.sha256
        )


def _find_pieces(request: CorpusRequest, layout: ModuleType) -> list[Piece]:
    sources = expand_sources(request.sources)
    log_passed_over(layout, sources)
    return list(divide_into_pieces(layout, sources, split=request.split))


def _plan_as_json(request: CorpusRequest, pieces: Sequence[Piece]) -> str:
    """Return what determines the bytes, as JSON without credentials."""
    plan = {
        "entry": request.manifest_entry,
        "tasks": request.tasks,
        "facts": request.facts,
        "pieces": [[piece.name, piece.size, piece.digest] for piece in pieces],
    }
    return json.dumps(plan, sort_keys=True, indent=0)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _piece_name(number: int) -> str:
    return f"piece-{number:06d}"
