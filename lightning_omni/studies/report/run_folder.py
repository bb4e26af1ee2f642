"""Read what a run folder holds: logs of its stages, its evaluation and its data's manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_omni.data.manifest import MANIFEST, read_manifest
from lightning_omni.errors import OmniError
from lightning_omni.recipe import find_config
from lightning_omni.studies.report.curves import (
    EVENTS,
    Curve,
    read_curves,
)

STAGES = ("image_tokenizer", "speech_tokenizer", "stage1", "stage2", "stage3")
_IN_ORDER = (*STAGES, "finetune")
_OWN_STAGES = {(), *((stage,) for stage in _IN_ORDER)}
"""Top folders of a run's own stages, as opposed to other runs inside its folder."""


@dataclass(frozen=True, slots=True)
class LoggedStage:
    """Logs of one training stage.

    Attributes:
        name: Folder of the stage within the run.
        curves: Logged scalars.
        recipe: Resolved recipe as YAML, if it is there.
        seconds: Time from the first log to the last.
        is_exported: Whether its model was exported.
    """

    name: str
    curves: list[Curve]
    recipe: str | None
    seconds: float
    is_exported: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation of the run.

    Attributes:
        folder: Folder that paths of the gallery are relative to.
        results: Content of `results.json`.
        gallery: Entries of `gallery.json`.
    """

    folder: Path
    results: dict[str, Any]
    gallery: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Content of a run folder.

    Attributes:
        folder: Run folder.
        stages: Training stages.
        evaluation: Newest evaluation, if there is one.
        manifest: Manifest of the evaluated data, if it is there.
        tokenizer_tables: Tables of `evaluate-tokenizers`, each a list of rows of cells.
    """

    folder: Path
    stages: list[LoggedStage]
    evaluation: Evaluation | None
    manifest: dict[str, Any] | None
    tokenizer_tables: list[list[list[str]]]

    @property
    def missing_parts(self) -> list[str]:
        """Missing parts of a complete run, in words."""
        have = {stage.name for stage in self.stages}
        absent = [f"training of {name}" for name in STAGES if name not in have]
        return absent if self.evaluation else [*absent, "evaluation"]


def read_run_folder(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        OmniError: If it holds neither a training nor an evaluation.
    """
    if not folder.is_dir():
        raise OmniError(f"no run at '{folder}'; give the folder that holds the stages of a run")
    homes = sorted({path.parent for path in folder.rglob(EVENTS)}, key=_stage_sort_key)
    own = [home for home in homes if _is_stage_of_run(home, folder)]
    stages = [_read_stage(home, folder) for home in own or homes]
    evaluation = _read_evaluation(folder, only_own=bool(own))
    if not stages and evaluation is None:
        raise OmniError(
            f"'{folder}' holds neither TensorBoard events nor results.json; train or evaluate first"
        )
    tables = _read_tables(folder)
    return RunFiles(folder, stages, evaluation, _read_manifest(evaluation), tables)


def _stage_sort_key(home: Path) -> tuple[int, str]:
    known = [i for i, name in enumerate(_IN_ORDER) if name in home.parts]
    return (known[0] if known else len(_IN_ORDER), str(home))


def _read_stage(home: Path, folder: Path) -> LoggedStage:
    curves, seconds = read_curves(home)
    recipe = find_config(home)
    name = home.name if home == folder else home.relative_to(folder).as_posix()
    return LoggedStage(
        name,
        curves,
        recipe.read_text("utf-8") if recipe is not None else None,
        seconds,
        (home / "export").is_dir(),
    )


def _is_stage_of_run(home: Path, folder: Path) -> bool:
    """Whether a folder belongs to a stage of the run, not to another run inside its folder."""
    return home.relative_to(folder).parts[:1] in _OWN_STAGES


def _read_evaluation(folder: Path, *, only_own: bool) -> Evaluation | None:
    """Read the results of the run, else the newest below it; `only_own`: of its own stages."""
    own = folder / "eval" / "results.json"
    below = sorted(folder.rglob("results.json"), key=lambda p: p.stat().st_mtime)
    found = [p for p in below if _is_stage_of_run(p.parent, folder) or not only_own]
    if own.is_file():
        found = [own]
    if not found:
        return None
    home = found[-1].parent
    index = home / "gallery.json"
    gallery = json.loads(index.read_text("utf-8")) if index.is_file() else []
    return Evaluation(home, json.loads(found[-1].read_text("utf-8")), gallery)


def _read_tables(folder: Path) -> list[list[list[str]]]:
    """Read the tables of the newest `tokenizers.md`."""
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
    folder = Path(evaluation.results.get("arguments", {}).get("data", ""))
    return read_manifest(folder) if (folder / MANIFEST).is_file() else None
