"""The `report` verb: one self-contained HTML page about a run, complete or not."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.files import make_room_for
from lightning_omni.studies.report.curves import (
    EVENTS,
    Curve,
    draw_curves,
    group_curves,
    read_curves,
)
from lightning_omni.studies.report.gallery import gallery
from lightning_omni.studies.report.tables import everything, headline, plain_table, rules, splits

log = logging.getLogger(__name__)
_SHOWN = 6  # charts per stage that are not folded
_EXPLANATION = (
    "Each number is measured on held-out samples chosen by the seed; empty and malformed answers "
    "and errors count as wrong. <b>Random baseline</b>: score of guesses. <b>Codec "
    "reconstruction</b>: score of the ground truth after the tokenizers. <b>Ground truth</b>: "
    "score of the original recording, image or text by the same scorer. In the small pictures the "
    "dot is the value, the bar its interval, orange the random baseline, green the ground truth. "
    "↓: lower is better."
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
    def missing(self) -> list[str]:
        """Missing parts of a complete run, in words."""
        have = {stage.name for stage in self.stages}
        absent = [f"training of {name}" for name in STAGES if name not in have]
        return absent if self.evaluation else [*absent, "evaluation"]


def build_report(run: Path, out: Path | None = None) -> Path:
    """Write a page with the scores, curves, gallery and provenance of a run.

    Args:
        run: Folder with the stages of a run and its evaluation.
        out: File to write; None for `report.html` in the run folder.

    Returns:
        Path of the page.

    Raises:
        OmniError: If the run holds neither a training nor an evaluation.
    """
    files = read_run(run)
    name = run.resolve().name
    sections = [
        _header(name, files),
        _scores(files.evaluation),
        _training(files.stages),
        _tokenizers(files),
        _gallery(files.evaluation),
        _provenance(files),
    ]
    template = Template(resources.files(__package__).joinpath("page.html").read_text())
    page = template.substitute(
        title=escape(f"Lightning Omni · {name}"), body="\n".join(s for s in sections if s)
    )
    out = make_room_for(out or run / "report.html")
    out.write_text(page, encoding="utf-8")
    log.info("wrote %s (%.1f MB)", out, out.stat().st_size / 1e6)
    return out


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


def _header(name: str, files: RunFiles) -> str:
    results = files.evaluation.results if files.evaluation else {}
    facts = [f"{len(files.stages)} training runs"]
    if results:
        facts.append(f"evaluated {results.get('created', 'at an unknown time')}")
        facts.append(f"commit {str(results.get('commit') or 'unknown')[:12]}")
    missing = "".join(
        f'<p><span class="badge poor">missing</span> {escape(part)}</p>' for part in files.missing
    )
    return (
        f"<h1>{escape(name)}</h1><p class='soft'>{escape(' · '.join(facts))}</p>"
        "<nav><a href='#scores'>Scores</a><a href='#training'>Training</a>"
        "<a href='#gallery'>Gallery</a><a href='#provenance'>Provenance</a></nav>" + missing
    )


def _scores(evaluation: Evaluation | None) -> str:
    title = "<h2 id='scores'>Nine tasks</h2>"
    if evaluation is None:
        return title + "<p class='soft'>Not evaluated yet.</p>"
    rows = evaluation.results["rows"]
    by_split = splits(rows)
    parts = [title, f"<p class='soft'>{_EXPLANATION}</p>", headline(rows)]
    if by_split:
        parts.append("<h3>By split</h3><p class='soft'>iid: new samples of the training "
                     "distribution; comp: combinations never trained on; style, voice: styles and "
                     "voices never trained on; xmodal: facts trained on in another modality "
                     "only.</p>" + by_split)  # fmt: skip
    parts.append(_details("Every metric, split and group", everything(rows)))
    parts.append(_details("How random baseline and ground truth were measured", rules(rows)))
    absent = evaluation.results.get("missing", [])
    if absent:
        names = ", ".join(f"{m['task']} on {m['split']}" for m in absent)
        parts.append(_details("Tasks without such a split", f"<p>{escape(names)}</p>"))
    return "".join(parts)


def _training(stages: Sequence[LoggedStage]) -> str:
    parts = ["<h2 id='training'>Training</h2>"]
    if not stages:
        parts.append("<p class='soft'>No TensorBoard events in this run.</p>")
    for stage in stages:
        steps = max((c.steps[-1] for c in stage.curves if c.steps), default=0)
        state = "exported" if stage.is_exported else "not exported"
        charts = [draw_curves(name, group) for name, group in group_curves(stage.curves).items()]
        charts = [chart for chart in charts if chart]
        parts.append(
            f"<h3>{escape(stage.name)}</h3><p class='soft'>{steps} steps, "
            f"{stage.seconds:.0f} s from its first log to its last, {state}</p>"
            f'<div class="curves">{"".join(charts[:_SHOWN])}</div>'
        )
        if charts[_SHOWN:]:
            rest = f'<div class="curves">{"".join(charts[_SHOWN:])}</div>'
            parts.append(_details(f"{len(charts) - _SHOWN} more charts", rest))
    return "".join(parts)


def _tokenizers(files: RunFiles) -> str:
    """Return the last validation scores of the tokenizers, and scores of reconstructions."""
    lines = [
        (stage.name, curve.name, f"{curve.values[-1]:.4g}", curve.steps[-1])
        for stage in files.stages
        if "tokenizer" in stage.name
        for curve in stage.curves
        if curve.name.startswith("tokenizer/") and curve.values
    ]
    rows = files.evaluation.results["rows"] if files.evaluation else []
    reconstructed = [
        (r["task"], r["split"], r["metric"], f"{r['reconstruction']:.3f}", f"{r['ceiling']:.3f}")
        for r in rows
        if r["reconstruction"] is not None and r["ceiling"] is not None and not r["slice"]
    ]
    parts = [plain_table(head, rest) for head, *rest in files.tokenizer_tables]
    if lines:
        parts.append(plain_table(("tokenizer", "validation score", "value", "step"), lines))
    if reconstructed:
        head = ("task", "split", "metric", "codec reconstruction", "ground truth")
        table = plain_table(head, reconstructed)
        parts.append(_details("Scores of the ground truth, reconstructed and original", table))
    return "<h2>Tokenizers</h2>" + "".join(parts) if parts else ""


def _gallery(evaluation: Evaluation | None) -> str:
    title = "<h2 id='gallery'>Gallery</h2>"
    if evaluation is None or not evaluation.gallery:
        return title + "<p class='soft'>No gallery: it is written by the evaluation.</p>"
    note = "<p class='soft'>The first evaluated examples, not the best.</p>"
    return title + note + gallery(evaluation.folder, evaluation.gallery)


def _provenance(files: RunFiles) -> str:
    parts = ["<h2 id='provenance'>Provenance</h2>"]
    if files.evaluation:
        results = files.evaluation.results
        names = ("model", "fingerprint", "codes", "manifest_sha256", "commit", "created", "python",
                 "platform", "device", "precision", "attention")  # fmt: skip
        lines = [(name, results.get(name)) for name in names]
        lines += list(results.get("packages", {}).items())
        lines += [(f"argument {k}", v) for k, v in results.get("arguments", {}).items()]
        parts.append(plain_table(("what", "value"), lines))
    if files.manifest:
        parts.append(_details("Data", _data(files.manifest)))
    parts += [
        _details(f"Recipe of {stage.name}, as resolved", f"<pre>{escape(stage.recipe)}</pre>")
        for stage in files.stages
        if stage.recipe
    ]
    return "".join(parts)


def _data(manifest: dict[str, Any]) -> str:
    """Return the manifest without its list of shards."""
    lines = [(k, v) for k, v in manifest.items() if k != "shards"]
    return plain_table(("what", "value"), lines)


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _stage_order(home: Path) -> tuple[int, str]:
    known = [i for i, name in enumerate(_IN_ORDER) if name in home.parts]
    return (known[0] if known else len(_IN_ORDER), str(home))


def _read_stage(home: Path, folder: Path) -> LoggedStage:
    curves, seconds = read_curves(home)
    recipe = home / "config.yaml"
    name = home.name if home == folder else home.relative_to(folder).as_posix()
    return LoggedStage(
        name,
        curves,
        recipe.read_text() if recipe.is_file() else None,
        seconds,
        (home / "export").is_dir(),
    )


def _is_own(home: Path, folder: Path) -> bool:
    """Whether a folder belongs to a stage of the run, not to another run inside its folder."""
    return home.relative_to(folder).parts[:1] in _OWN_STAGES


def _read_evaluation(folder: Path, *, only_own: bool) -> Evaluation | None:
    """Read the results of the run, else the newest below it; `only_own`: of its own stages."""
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
    path = Path(evaluation.results.get("arguments", {}).get("data", "")) / "manifest.json"
    if not path.is_file():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest
