"""Saves that are killed at each file operation, and checkpoints that are damaged or foreign."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from fault import Fault, Outcome
from killed_saves import (
    AFTER,
    BEFORE,
    EVERY,
    HALF,
    STEPS,
    FileOperations,
    files_of,
    fit,
    in_process,
    read_trace,
)

from lightning_omni.files import SUMS_FILE
from lightning_omni.modules.checkpoint_file import checksum_file
from lightning_omni.modules.checkpoint_folder import remove

STRIDE = 97  # between the moments of two calls, so that a share of them is from all parts
SHARED_MEMORY = Path("/dev/shm")  # a file system that is not the run's
KINDS = {"file": "one-file", "folder": "sharded", "later": "sharded, asynchronous"}


class Moment(NamedTuple):
    """An operation of a save in one of its processes, and where in it the process dies."""

    rank: int = 0
    at: int = -1
    when: str = BEFORE


class Unbroken(NamedTuple):
    """What a run that nobody kills does.

    Attributes:
        moments: Each operation of a save with each moment at which it can be killed.
        digests: Digest of the weights and states by step.
        files: Files that it leaves.
    """

    moments: tuple[Moment, ...]
    digests: dict[int, str]
    files: frozenset[str]


NEVER = Moment()


def fit_and_count(folder: Path, kind: str, killed: Moment) -> None:
    """Train, and leave the number of operations and which of them write."""
    rank = int(os.environ.get("RANK", "0"))
    at = killed.at if rank == killed.rank else -1
    watch = FileOperations(folder / "checkpoints", at, killed.when)
    fit(folder, watch, kind=kind)
    (folder / f"count{rank}.json").write_text(json.dumps([watch.count, watch.writes]))


@functools.cache
def unbroken(kind: str, ranks: int) -> Unbroken:
    """Return what a run that nobody kills does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        folder.mkdir()
        codes = in_process(partial(fit_and_count, folder, kind, NEVER), folder / "log", ranks)
        assert not any(codes), (folder / "log.0").read_text()
        moments: list[Moment] = []
        for rank in range(ranks):
            count, writes = json.loads((folder / f"count{rank}.json").read_text())
            for at in range(count):
                whens = (BEFORE, HALF, AFTER) if at in writes else (BEFORE, AFTER)
                moments += [Moment(rank, at, when) for when in whens]
        return Unbroken(tuple(moments), dict(read_trace(folder)), frozenset(files_of(folder)))


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Have temporary files made in a folder."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    earlier = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if earlier is not None:
            os.environ["TMPDIR"] = earlier


def killed_save(kind: str, ranks: int, same: bool, number: int, folder: Path) -> Iterator[Outcome]:
    """Kill a run at an operation of its second save, and start it again until its end."""
    all_moments, truth, files = unbroken(kind, ranks)
    assert len(all_moments) <= CALLS[kind, ranks], "not every operation has a call"
    killed = all_moments[number * STRIDE % len(all_moments)]
    run = folder / "run"
    run.mkdir()
    with tempfile.TemporaryDirectory(dir=folder if same else SHARED_MEMORY) as temporary:
        with temporary_files_in(Path(temporary)):
            codes = in_process(partial(fit_and_count, run, kind, killed), run / "log", ranks)
            before = len(read_trace(run))
            again = in_process(partial(fit_and_count, run, kind, NEVER), run / "log", ranks)
        left = [path.name for path in Path(temporary).iterdir()]
    where = f"{killed.when} operation {killed.at} of process {killed.rank} of {ranks}"
    if -9 not in codes and kind != "later":  # whose threads do not always do as much
        yield Outcome(False, "it was not killed", f"{where}: {codes}")
        return
    if any(again):
        said = (run / "log.0").read_text().strip().splitlines()[-1]
        yield Outcome(False, "the next start failed", f"{where}: {said}")
        return
    resumed = read_trace(run)[before:]
    begun = resumed[0][0] - 1 if resumed else before
    surplus = sorted(files_of(run) ^ files) + left
    if -9 not in codes:
        yield Outcome(not surplus, "ended before that operation", f"{where}: {surplus}")
    elif begun not in (EVERY, 2 * EVERY):
        yield Outcome(False, f"went on at step {begun}", where)
    elif any(truth[step] != digest for step, digest in resumed) or resumed[-1][0] != STEPS:
        yield Outcome(False, "other weights", where)
    elif surplus:
        yield Outcome(False, "files left over", f"{where}: {surplus}")
    else:
        yield Outcome(True, f"went on with the {'previous' if begun == EVERY else 'new'} one")


def flip(path: Path, rng: Random, count: int) -> None:
    """Flip so many bits."""
    data = bytearray(path.read_bytes())
    for _ in range(count):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path: Path, rng: Random) -> None:
    """Cut a file somewhere, also to nothing."""
    path.write_bytes(path.read_bytes()[: rng.choice([0, rng.randrange(path.stat().st_size)])])


def damage(checkpoint: Path, what: str, rng: Random) -> str:
    """Do something to a checkpoint: to the file, or to one of the folder's files, and name it."""
    inside = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    path = rng.choice(inside) if inside else checkpoint
    if what == "cut":
        cut(path, rng)
    elif what == "one bit":
        flip(path, rng, 1)
    elif what == "200 bits":
        flip(path, rng, 200)
    elif what == "no checksum":
        listed = checkpoint / SUMS_FILE if inside else checksum_file(checkpoint)
        listed.unlink(missing_ok=True)
    elif what == "no checksum and cut":
        damage(checkpoint, "no checksum", rng)
        cut(path if path.exists() else checkpoint / "meta.pt", rng)
    elif what == "deleted":
        remove(checkpoint)
    return path.name


def is_told(damaged: Path, said: str) -> bool:
    """Whether a run said that it went on from another checkpoint than this one, and why."""
    return any(f"{damaged}' {why}" in said for why in ("is damaged", "has no readable checksum"))


DAMAGES = ("cut", "one bit", "200 bits", "deleted", "no checksum", "no checksum and cut")


def damaged_checkpoint(kind: str, number: int, folder: Path) -> Iterator[Outcome]:
    """Damage `last`, the file of the step beside it, or both, and go on with `last`."""
    rng = Random(number)
    _, truth, files = unbroken(kind, 1)
    stopped, run = stopped_run(kind), folder / "run"
    shutil.copytree(stopped, run)
    last, step = run / "checkpoints/last.ckpt", run / f"checkpoints/epoch=0-step={2 * EVERY}.ckpt"
    what = DAMAGES[number % len(DAMAGES)]
    victims = rng.choice([(last,), (last,), (step,), (last, step)])
    names = [damage(victim, what, rng) for victim in victims]
    before = len(read_trace(run))
    codes = in_process(partial(fit_and_count, run, kind, NEVER), run / "log")
    said = (run / "log.0").read_text()
    where = f"{what} of {', '.join(victim.name for victim in victims)}: {names}"
    # of the list, a bit may be one of the comment, which says when the checkpoint was saved
    is_harmless = what == "no checksum" or (what == "one bit" and SUMS_FILE in names)
    resumed = read_trace(run)[before:]
    if any(codes):
        is_sentence = "lightning_omni.errors.OmniError: " in said
        has_none = len(victims) == 2 and what != "no checksum"
        yield Outcome(
            is_sentence and has_none, "refused with a sentence", f"{where}: {said[-300:]}"
        )
    elif not resumed or resumed[0][0] != 2 * EVERY + 1:
        is_gone = what == "deleted" and len(victims) == 2  # nothing that could be gone on from
        yield Outcome(is_gone, f"began at step {resumed[0][0] - 1}", where)
    elif any(truth[number] != digest for number, digest in resumed):
        yield Outcome(False, "other weights", where)
    elif not is_harmless and what != "deleted" and last in victims and not is_told(last, said):
        yield Outcome(False, "nothing said", f"{where}: {said[-300:]}")
    elif sorted(files_of(run) ^ files):
        yield Outcome(False, "files left over", f"{where}: {sorted(files_of(run) ^ files)}")
    else:
        yield Outcome(True, "went on with the newest valid one")


@functools.cache
def stopped_run(kind: str, width: int = 16) -> Path:
    """Return the folder of a run that stopped after its second save; it stays until the end."""
    folder = Path(tempfile.mkdtemp(prefix="fault-stopped-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    watch = FileOperations(folder / "checkpoints")
    work = partial(fit, folder, watch, kind=kind, steps=2 * EVERY, width=width)
    codes = in_process(work, folder / "log")
    assert not any(codes), (folder / "log.0").read_text()
    return folder


def foreign_checkpoint(kind: str, number: int, folder: Path) -> Iterator[Outcome]:
    """Put the last checkpoint of a run of another width into the place of `last`."""
    run = folder / "run"
    shutil.copytree(stopped_run(kind), run)
    other, last = stopped_run(kind, 12 + number) / "checkpoints/last.ckpt", run / "checkpoints"
    for path in (other, checksum_file(other)):
        remove(last / path.name)
        if path.exists():
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, last / path.name)
    before = len(read_trace(run))
    codes = in_process(partial(fit_and_count, run, kind, NEVER), run / "log")
    said = (run / "log.0").read_text().strip().splitlines()[-1]
    is_told = "OmniError: " in said and f"(checkpoint: {12 + number} x 8)" in said
    ok = codes == [1] and is_told and len(read_trace(run)) == before
    yield Outcome(ok, "refused with the difference" if ok else "something else", said)


def _kills(kind: str, ranks: int = 1, *, same: bool = True, fast_calls: int = 0) -> Fault:
    who = "killed" if ranks == 1 else f"one of {ranks} processes killed"
    place = "the same" if same else "another"
    return Fault(
        f"{who} at each file operation of a save ({KINDS[kind]}, TMPDIR on {place} file system)",
        CALLS[kind, ranks],
        partial(killed_save, kind, ranks, same),
        fast_calls,
    )


def _damages(kind: str, fast_calls: int = 0) -> Iterator[Fault]:
    yield Fault(
        f"last or step checkpoint cut, flipped, deleted, without checksum ({KINDS[kind]})",
        100,
        partial(damaged_checkpoint, kind),
        fast_calls,
    )
    yield Fault(
        f"last checkpoint is one of another model ({KINDS[kind]})",
        4,
        partial(foreign_checkpoint, kind),
        fast_calls,
    )


CALLS = {("file", 1): 79, ("folder", 1): 256, ("later", 1): 256, ("folder", 2): 368}
CALLS["later", 2] = CALLS["folder", 2]
"""Operations of a save times the moments of each, once each, by kind and processes."""
FAULTS: tuple[Fault, ...] = (
    _kills("file", fast_calls=2),
    _kills("file", same=False),
    *_damages("file", fast_calls=1),
    *_damages("folder"),
    _kills("folder", fast_calls=1),
    _kills("folder", same=False),
    _kills("later"),
    _kills("later", same=False),
    _kills("folder", 2),
    _kills("later", 2),
)
