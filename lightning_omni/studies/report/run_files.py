"""Find what a run folder holds: stages with their curves, and evaluations."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    SCALARS,
    EventAccumulator,
)

from lightning_omni.errors import OmniError

STAGES = ("image_tokenizer", "speech_tokenizer", "stage1", "stage2", "stage3")
_IN_ORDER = (*STAGES, "finetune")
EVENTS = "events.out.tfevents.*"
_OWN_STAGES = {(), *((stage,) for stage in _IN_ORDER)}
"""Where a run keeps its stages; runs that lie inside it, such as the demo's, are not its own."""
_UNPLOTTED = ("epoch", "hp_metric")


@dataclass(frozen=True, slots=True)
class Curve:
    """One logged scalar: optimizer steps, and a value at each."""

    name: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Stage:
    """A training run: its curves, the recipe as it was resolved, and how long it logged."""

    name: str
    curves: list[Curve]
    recipe: str | None
    seconds: float
    is_exported: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results with their gallery; `folder` is where the gallery's paths start."""

    folder: Path
    results: dict[str, Any]
    gallery: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Everything a report shows."""

    folder: Path
    stages: list[Stage]
    evaluation: Evaluation | None
    manifest: dict[str, Any] | None
    tokenizer_tables: list[list[list[str]]]
    """Tables of `evaluate-tokenizers`, each a head and rows of cells; empty if it never ran."""

    @property
    def missing(self) -> list[str]:
        """Parts of a whole run that are not there, in words."""
        have = {stage.name for stage in self.stages}
        absent = [f"training of {name}" for name in STAGES if name not in have]
        return absent if self.evaluation else [*absent, "evaluation"]


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        OmniError: If it holds neither a training nor an evaluation.
    """
    if not folder.is_dir():
        raise OmniError(f"no run at '{folder}'; give the folder that holds the stages of a run")
    homes = sorted({path.parent for path in folder.rglob(EVENTS)}, key=_stage_order)
    own = [home for home in homes if _is_own(home, folder)]
    stages = [_read_stage(home, folder) for home in own or homes]
    evaluation = _read_evaluation(folder, only_own=bool(own))
    if not stages and evaluation is None:
        raise OmniError(
            f"'{folder}' holds neither TensorBoard events nor results.json; train or evaluate first"
        )
    tables = _read_tables(folder)
    return RunFiles(folder, stages, evaluation, _read_manifest(evaluation), tables)


def read_curves(home: Path) -> tuple[list[Curve], float]:
    """Read the scalars logged into a folder, and the seconds they took.

    A run that was started again continues in a new file: from that file's first step on, it alone
    holds. The time between a stop and the next start does not count.
    """
    files: list[list[tuple[str, Any]]] = []
    for path in sorted(home.glob(EVENTS), key=lambda p: (p.stat().st_mtime, p.name)):
        newer = _read_events(path)
        start = min((event.step for _, event in newer), default=math.inf)
        files = [[(n, e) for n, e in older if e.step < start] for older in files] + [newer]
    found: dict[str, dict[int, float]] = {}
    for name, event in chain.from_iterable(files):
        found.setdefault(name, {})[event.step] = event.value
    curves = [
        Curve(name, sorted(points), [points[s] for s in sorted(points)])
        for name, points in sorted(found.items())
        if name not in _UNPLOTTED
    ]
    times = [[event.wall_time for _, event in file] for file in files]
    return curves, sum(max(file) - min(file) for file in times if file)


def _read_events(path: Path) -> list[tuple[str, Any]]:
    """Every scalar of a file with its name."""
    accumulator = EventAccumulator(str(path), size_guidance={SCALARS: 0})
    accumulator.Reload()
    names = accumulator.Tags()[SCALARS]
    return [(name, event) for name in names for event in accumulator.Scalars(name)]


def _stage_order(home: Path) -> tuple[int, str]:
    known = [i for i, name in enumerate(_IN_ORDER) if name in home.parts]
    return (known[0] if known else len(_IN_ORDER), str(home))


def _read_stage(home: Path, folder: Path) -> Stage:
    curves, seconds = read_curves(home)
    recipe = home / "config.yaml"
    name = home.name if home == folder else home.relative_to(folder).as_posix()
    return Stage(
        name,
        curves,
        recipe.read_text() if recipe.is_file() else None,
        seconds,
        (home / "export").is_dir(),
    )


def _is_own(home: Path, folder: Path) -> bool:
    """Tell a stage's folder, or one inside it, from that of a run that lies inside the run."""
    return home.relative_to(folder).parts[:1] in _OWN_STAGES


def _read_evaluation(folder: Path, *, only_own: bool) -> Evaluation | None:
    """The run's own results, else the newest below it, where `only_own` in its own stages."""
    own = folder / "eval" / "results.json"
    below = sorted(folder.rglob("results.json"), key=lambda p: p.stat().st_mtime)
    found = [p for p in below if _is_own(p.parent, folder) or not only_own]
    if own.is_file():
        found = [own]
    if not found:
        return None
    home = found[-1].parent
    index = home / "gallery.json"
    gallery = json.loads(index.read_text()) if index.is_file() else []
    return Evaluation(home, json.loads(found[-1].read_text()), gallery)


def _read_tables(folder: Path) -> list[list[list[str]]]:
    """Tables of the newest `tokenizers.md` in the run or a folder of it."""
    found = [*folder.glob("tokenizers.md"), *folder.glob("*/tokenizers.md")]
    if not found:
        return []
    newest = max(found, key=lambda p: p.stat().st_mtime)
    blocks = newest.read_text("utf-8").strip().split("\n\n")
    return [
        [
            [cell.strip() for cell in line.strip("| ").split("|")]
            for line in block.splitlines()
            if not line.startswith("|---")
        ]
        for block in blocks
    ]


def _read_manifest(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    path = Path(evaluation.results.get("arguments", {}).get("data", "")) / "manifest.json"
    if not path.is_file():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest
