"""The `report` verb: one self-contained page about a run, whatever parts of it exist."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from lightning_omni.files import make_room_for
from lightning_omni.studies.report.curves import draw_curves, group_curves
from lightning_omni.studies.report.gallery import gallery
from lightning_omni.studies.report.run_files import Evaluation, RunFiles, Stage, read_run
from lightning_omni.studies.report.tables import everything, headline, plain_table, rules, splits

log = logging.getLogger(__name__)
_SHOWN = 6  # charts per stage before the rest is folded away
_EXPLAIN = (
    "Each number is measured on held-out samples chosen by the seed; answers that are empty, "
    "malformed or raised an error count as wrong. <b>Chance</b> is what guessing earns, "
    "<b>codes</b> what the truth earns after a trip through the tokenizers, <b>real</b> what the "
    "real recording, image or text earns with the same judge. In the small pictures the dot is the "
    "value, the bar its interval, orange chance, green real. ↓ means that lower is better."
)


def build_report(run: Path, out: Path | None = None) -> Path:
    """Write a page with the run's scores, curves, gallery and provenance.

    Args:
        run: Folder that holds the stages of a run and its evaluation.
        out: Where to write; None for `report.html` in the run.

    Returns:
        The path written.

    Raises:
        OmniError: If the run holds nothing to report.
    """
    files = read_run(run)
    name = run.resolve().name
    sections = [
        _top(name, files),
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


def _top(name: str, files: RunFiles) -> str:
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
    parts = [title, f"<p class='soft'>{_EXPLAIN}</p>", headline(rows)]
    if by_split:
        parts.append("<h3>By split</h3><p class='soft'>iid: new samples of the training "
                     "distribution; comp: combinations never trained on; style, voice: styles and "
                     "voices never trained on; xmodal: facts trained on in another modality "
                     "only.</p>" + by_split)  # fmt: skip
    parts.append(_fold("Every metric, split and slice", everything(rows)))
    parts.append(_fold("How chance and real were measured", rules(rows)))
    absent = evaluation.results.get("missing", [])
    if absent:
        names = ", ".join(f"{m['task']} on {m['split']}" for m in absent)
        parts.append(_fold("Tasks without such a split", f"<p>{escape(names)}</p>"))
    return "".join(parts)


def _training(stages: Sequence[Stage]) -> str:
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
            parts.append(_fold(f"{len(charts) - _SHOWN} more charts", rest))
    return "".join(parts)


def _tokenizers(files: RunFiles) -> str:
    """Last validation scores of the tokenizers, and what the truth earns through their codes."""
    lines = [
        (stage.name, curve.name, f"{curve.values[-1]:.4g}", curve.steps[-1])
        for stage in files.stages
        if "tokenizer" in stage.name
        for curve in stage.curves
        if curve.name.startswith("tokenizer/") and curve.values
    ]
    rows = files.evaluation.results["rows"] if files.evaluation else []
    through = [
        (r["task"], r["split"], r["metric"], f"{r['reconstruction']:.3f}", f"{r['ceiling']:.3f}")
        for r in rows
        if r["reconstruction"] is not None and r["ceiling"] is not None and not r["slice"]
    ]
    parts = [plain_table(head, rest) for head, *rest in files.tokenizer_tables]
    if lines:
        parts.append(plain_table(("tokenizer", "validation score", "value", "step"), lines))
    if through:
        head = ("task", "split", "metric", "through the codes", "real")
        table = plain_table(head, through)
        parts.append(_fold("What the truth earns through the codes, and untouched", table))
    return "<h2>Tokenizers</h2>" + "".join(parts) if parts else ""


def _gallery(evaluation: Evaluation | None) -> str:
    title = "<h2 id='gallery'>Gallery</h2>"
    if evaluation is None or not evaluation.gallery:
        return title + "<p class='soft'>No gallery: it is written by the evaluation.</p>"
    note = "<p class='soft'>The first of the evaluated cases, not the best.</p>"
    return title + note + gallery(evaluation.folder, evaluation.gallery)


def _provenance(files: RunFiles) -> str:
    parts = ["<h2 id='provenance'>Provenance</h2>"]
    if files.evaluation:
        results = files.evaluation.results
        names = ("model", "fingerprint", "codes", "manifest_sha256", "commit", "created", "python",
                 "platform", "device")  # fmt: skip
        lines = [(name, results.get(name)) for name in names]
        lines += list(results.get("packages", {}).items())
        lines += [(f"argument {k}", v) for k, v in results.get("arguments", {}).items()]
        parts.append(plain_table(("what", "value"), lines))
    if files.manifest:
        parts.append(_fold("Data", _data(files.manifest)))
    parts += [
        _fold(f"Recipe of {stage.name}, as resolved", f"<pre>{escape(stage.recipe)}</pre>")
        for stage in files.stages
        if stage.recipe
    ]
    return "".join(parts)


def _data(manifest: dict[str, Any]) -> str:
    """All of the manifest but its list of shards."""
    lines = [(k, v) for k, v in manifest.items() if k != "shards"]
    return plain_table(("what", "value"), lines)


def _fold(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
