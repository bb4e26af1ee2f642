"""The trainings of an experiment: each in its own process and folder, and never repeated."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.provenance import provenance
from lightning_omni.files import file_lock, read_json_object
from lightning_omni.pretrained import CONFIG_FILE
from lightning_omni.studies.experiments.recipe import (
    Recipe,
    json_digest,
    with_initial_weights,
    with_output_folder,
    with_seed,
    write_recipe,
)

log = logging.getLogger(__name__)
TRAINED = "trained.json"
RECIPE = "recipe.yaml"
LOG = "training.log"


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """One training stage of a variant, before it has a seed and a folder.

    Attributes:
        source: Recipe file.
        recipe: Its content with the variant's settings.
        inputs: Digest of the data, the tokenizers and the initial weights.
    """

    source: Path
    recipe: Recipe
    inputs: str


@dataclass(frozen=True, slots=True)
class Training:
    """One run of the verb `fit`; equal trainings share a folder.

    Attributes:
        source: Recipe file.
        recipe: Resolved recipe with seed and folder.
        folder: Run folder, named by a digest of the recipe and its inputs.
    """

    source: Path
    recipe: Recipe
    folder: Path

    @property
    def export_folder(self) -> Path:
        """Folder of the exported model."""
        return self.folder / "export"

    @property
    def is_done(self) -> bool:
        """Whether the training has ended and its model is exported."""
        return (self.folder / TRAINED).is_file() and (self.export_folder / CONFIG_FILE).is_file()

    def wall_seconds(self) -> float:
        """Return the wall time of the training since its last start, in seconds."""
        record = read_json_object(self.folder / TRAINED, remedy="delete the folder and train again")
        return float(record["seconds"])


def plan_trainings(stages: list[StageRecipe], seed: int, home: Path) -> list[Training]:
    """Return one training per stage, each starting from the export of the one before.

    Args:
        stages: Stages of one variant, in order.
        seed: Training seed.
        home: Parent of the run folders.
    """
    planned: list[Training] = []
    for stage in stages:
        recipe = with_seed(stage.recipe, seed)
        before = planned[-1] if planned else None
        named = with_initial_weights(recipe, Path(before.folder.name)) if before else recipe
        folder = home / json_digest([with_output_folder(named, Path("run")), stage.inputs])
        started = with_initial_weights(recipe, before.export_folder) if before else recipe
        planned.append(Training(stage.source, with_output_folder(started, folder), folder))
    return planned


def run_training(training: Training, *, variant: str, seed: int, device: torch.device) -> None:
    """Train unless already done; an interrupted run resumes from its last checkpoint.

    Args:
        training: Training to run.
        variant: Variant name, for messages.
        seed: Training seed, for messages.
        device: Device to train on.

    Raises:
        OmniError: If the training fails.
    """
    training.folder.mkdir(parents=True, exist_ok=True)
    with file_lock(training.folder / "lock") as lock:
        if training.is_done:
            return
        write_recipe(training.recipe, training.folder / RECIPE)
        checkpoint = find_last_checkpoint(training.folder)
        log.info(
            "variant '%s', seed %d: training %s in '%s'%s",
            variant,
            seed,
            training.source,
            training.folder,
            f", resumed from '{checkpoint}'" if checkpoint else "",
        )
        start = time.monotonic()
        code = _run_fit(training.folder, lock, device)
        if code or not (training.export_folder / CONFIG_FILE).is_file():
            path = training.folder / LOG
            raise OmniError(
                f"variant '{variant}', seed {seed}: training {training.source} failed, see "
                f"'{path}'; it ends with: {_read_last_line(path)}"
            )
        record = {
            "source": str(training.source),
            "seconds": time.monotonic() - start,
            "resumed_from": str(checkpoint) if checkpoint else None,
            **provenance(device),
        }
        (training.folder / TRAINED).write_text(
            json.dumps(record, indent=1) + "\n", encoding="utf-8"
        )


def find_last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint named `last` below a folder, None if there is none."""
    found = sorted(folder.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _run_fit(folder: Path, lock: int, device: torch.device) -> int:
    """Run the verb `fit` with its output in the log; return its exit status."""
    command = [sys.executable, "-m", "lightning_omni", "fit", "--config", str(folder / RECIPE)]
    command += ["--trainer.accelerator", "gpu" if device.type == "cuda" else "cpu"]
    if device.index is not None:
        command += ["--trainer.devices", f"[{device.index}]"]
    command += ["--ckpt_path", "last"]  # from the beginning if there is none
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


def _read_last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "nothing was written")
