"""`prep-data --corpus`: convert a user's corpus with an executor."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.conversion.corpus_job import PARTIAL, CorpusJob, CorpusRequest
from data_prep.conversion.pieces import Piece
from data_prep.conversion.publication import holds_corpus
from data_prep.corpora.source_files import check_source_text
from data_prep.tally import MAX_UNUSABLE_SHARE
from lightning_omni.data.manifest import MANIFEST, read_manifest
from lightning_omni.data.storage.read_counts import log_read_counts
from lightning_omni.data.storage.url_reader import read_counts_so_far
from lightning_omni.errors import OmniError
from lightning_omni.files import make_folder
from lightning_omni.jobs.claims import Claims
from lightning_omni.jobs.executors.local import default_num_processes
from lightning_omni.jobs.options import ExecutorOptions
from lightning_omni.jobs.run_job import run_job

log = logging.getLogger(__name__)

_ONE_PROCESS = ExecutorOptions(processes=1)


def prepare_corpus(
    name: str,
    sources: Sequence[str | Path],
    out: Path,
    *,
    split: str,
    facts: dict[str, Any],
    tasks: Sequence[str] = (),
    options: ExecutorOptions = _ONE_PROCESS,
    max_unusable: float = MAX_UNUSABLE_SHARE,
) -> dict[str, Any]:
    """Convert a corpus to shards of one split and return the manifest.

    Several calls, one per corpus and split, may fill the same folder, also at the same time. Memory
    does not grow with the corpus. The folder changes when the corpus was read to its end. The bytes
    do not depend on executor and number of processes.

    Args:
        name: Name of the layout, one of `CORPORA`.
        sources: Folders, files or URLs of the corpus; braces stand for several, as in
            `{000..012}.tar`.
        out: Data folder to write into.
        split: Split that the samples belong to.
        facts: Further entries of the manifest.
        tasks: Tasks to make samples of; none for all that the entries give.
        options: Executor and its processes.
        max_unusable: Largest share of entries that cannot be used and are left out; with more, the
            corpus is refused.

    Returns:
        The manifest; {} if parts of an array are missing.

    Raises:
        OmniError: If a source cannot be read, or `out` holds other data or this corpus.
    """
    given = tuple(_normalize_source(str(source)) for source in sources)
    request = CorpusRequest(name, given, out, split, tuple(tasks), facts, max_unusable)
    make_folder(out if out.exists() else out.resolve().parent)
    has_others = options.executor in ("torchrun", "slurm-array")
    if holds_corpus(out, request.manifest_entry) and not has_others:  # of these, one may come late
        _remove_unused_work(request)
        raise OmniError(
            f"'{out}' already holds the split {split} of {name} '{request.manifest_entry['how']}'; "
            "choose another --out, --source or --split"
        )
    job = CorpusJob(request)
    _remove_unused_work(request, but=job.work)
    most = min(default_num_processes(), max(1, len(job.pieces)))
    is_here = has_others or (options.executor == "local" and (options.processes or most) == 1)
    load = (lambda _: job) if is_here else partial(make_corpus_job, request, job.pieces)
    try:
        run_job(load, options, processes=most)
    except OmniError as error:
        if not has_others:  # a process that started late has made the folder anew
            job.clear_after(error)
        raise
    if not (out / MANIFEST).is_file() or not holds_corpus(out, request.manifest_entry):
        return {}
    manifest = read_manifest(out)
    made = next(
        s for s in reversed(manifest["sources"]) if request.manifest_entry.items() <= s.items()
    )
    log.info("%s: %d entries, %d left out, in %s", name, made["entries"], made["left_out"], out)
    log_read_counts(read_counts_so_far())
    return manifest


def _normalize_source(source: str) -> str:
    """Return a path without what does not change its meaning, so that a corpus has one name.

    Behind a link `..` does change it, and so do single slashes in URLs within braces.
    """
    check_source_text(source)
    normal = os.path.normpath(source)
    is_same = "://" not in source and os.path.realpath(normal) == os.path.realpath(source)
    return normal if is_same else source


def make_corpus_job(request: CorpusRequest, pieces: Sequence[Piece], index: int) -> CorpusJob:
    """Return the job in a process of its own, of pieces that need not be found again."""
    return CorpusJob(request, pieces)


def _remove_unused_work(request: CorpusRequest, *, but: Path | None = None) -> None:
    """Remove what was begun with another state of the corpus, and nobody goes on with.

    Args:
        request: What is converted.
        but: Folder to leave.
    """
    for folder in sorted(request.parent_folder.iterdir()):
        is_begun = folder.name.startswith(request.work_prefix) and folder.suffix == PARTIAL
        if is_begun and folder != but:
            with closing(Claims(folder / "claims")) as claims:
                is_used = claims.has_other_workers()
            if not is_used:
                log.info("'%s' was begun with other options or another corpus; removed", folder)
                shutil.rmtree(folder, ignore_errors=True)
