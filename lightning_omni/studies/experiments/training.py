"""Trainings of an experiment: each in a process and a folder of its own, and never twice."""

from __future__ import annotations

import fcntl
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.files import read_json_object
from lightning_omni.pretrained import CONFIG_FILE
from lightning_omni.studies.experiments.recipe import (
    Recipe,
    digest,
    in_folder,
    starting_from,
    with_seed,
    write_recipe,
)

log = logging.getLogger(__name__)
TRAINED = "trained.json"
RECIPE = "recipe.yaml"
LOG = "training.log"


@dataclass(frozen=True, slots=True)
class Stage:
    """A recipe with an arm's settings, before it has a seed and a folder.

    Attributes:
        source: File of the recipe.
        recipe: Its content.
        inputs: Digest of the data, the tokenizers and the weights it starts from.
    """

    source: Path
    recipe: Recipe
    inputs: str


@dataclass(frozen=True, slots=True)
class Training:
    """One run of the verb `fit`; trainings with the same content share a folder."""

    source: Path
    recipe: Recipe
    folder: Path

    @property
    def export(self) -> Path:
        """Where the trained model is."""
        return self.folder / "export"

    @property
    def is_done(self) -> bool:
        """Tell whether it ended and its model is there."""
        return (self.folder / TRAINED).is_file() and (self.export / CONFIG_FILE).is_file()

    def seconds(self) -> float:
        """How long it took, counted from its last start."""
        record = read_json_object(self.folder / TRAINED, remedy="delete the folder and train again")
        return float(record["seconds"])


def plan_trainings(stages: list[Stage], seed: int, home: Path) -> list[Training]:
    """Give stages a seed and folders in `home` that are named by what they are trained from."""
    planned: list[Training] = []
    for stage in stages:
        recipe = with_seed(stage.recipe, seed)
        before = planned[-1] if planned else None
        named = starting_from(recipe, Path(before.folder.name)) if before else recipe
        folder = home / digest([in_folder(named, Path("run")), stage.inputs])
        started = starting_from(recipe, before.export) if before else recipe
        planned.append(Training(stage.source, in_folder(started, folder), folder))
    return planned


def train(training: Training, *, arm: str, seed: int) -> None:
    """Train, unless it is done; go on from the last checkpoint of a run that was interrupted.

    Raises:
        OmniError: If the training fails.
    """
    training.folder.mkdir(parents=True, exist_ok=True)
    with _alone(training.folder) as lock:
        if training.is_done:
            return
        write_recipe(training.recipe, training.folder / RECIPE)
        checkpoint = last_checkpoint(training.folder)
        log.info(
            "arm '%s', seed %d: training %s in '%s'%s",
            arm,
            seed,
            training.source,
            training.folder,
            f", on from '{checkpoint}'" if checkpoint else "",
        )
        start = time.monotonic()
        code = _fit(training.folder, checkpoint, lock)
        if code or not (training.export / CONFIG_FILE).is_file():
            path = training.folder / LOG
            raise OmniError(
                f"arm '{arm}', seed {seed}: training {training.source} failed, see '{path}'; it "
                f"ends with: {_last_line(path)}"
            )
        record = {
            "source": str(training.source),
            "seconds": time.monotonic() - start,
            "resumed_from": str(checkpoint) if checkpoint else None,
            **provenance(),
        }
        (training.folder / TRAINED).write_text(json.dumps(record, indent=1) + "\n")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest of the checkpoints named `last` in a folder."""
    found = sorted(folder.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Wait until no other process trains in a folder; yields the lock for a child to hold too."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _fit(folder: Path, checkpoint: Path | None, lock: int) -> int:
    """Run the verb with its output in the log, and return its exit status."""
    command = [sys.executable, "-m", "lightning_omni", "fit", "--config", str(folder / RECIPE)]
    if checkpoint:
        command += ["--ckpt_path", str(checkpoint)]
    with (folder / LOG).open("a") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock,),
            check=False,
        )
    return done.returncode


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "nothing was written")
