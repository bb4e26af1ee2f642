"""The `report` verb: one self-contained HTML page about a run, complete or not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from lightning_omni.files import make_parent_folder
from lightning_omni.studies.report.curves import (
    draw_curves,
    group_curves,
)
from lightning_omni.studies.report.gallery import gallery_html
from lightning_omni.studies.report.run_folder import (
    Evaluation,
    LoggedStage,
    RunFiles,
    read_run_folder,
)
from lightning_omni.studies.report.tables import (
    full_table,
    headline_table,
    measurement_rules_table,
    splits_table,
    text_table,
)
from lightning_omni.whole_files import write_text

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
    files = read_run_folder(run)
    name = run.resolve().name
    sections = [
        _header_html(name, files),
        _scores_html(files.evaluation),
        _training_html(files.stages),
        _tokenizers_html(files),
        _gallery_html(files.evaluation),
        _provenance_html(files),
    ]
    template = Template(resources.files(__package__).joinpath("page.html").read_text("utf-8"))
    page = template.substitute(
        title=escape(f"Lightning Omni · {name}"), body="\n".join(s for s in sections if s)
    )
    out = make_parent_folder(out or run / "report.html")
    write_text(out, page)
    log.info("wrote %s (%.1f MB)", out, out.stat().st_size / 1e6)
    return out


def _header_html(name: str, files: RunFiles) -> str:
    results = files.evaluation.results if files.evaluation else {}
    facts = [f"{len(files.stages)} training runs"]
    if results:
        facts.append(f"evaluated {results.get('created', 'at an unknown time')}")
        facts.append(f"commit {str(results.get('commit') or 'unknown')[:12]}")
    missing = "".join(
        f'<p><span class="badge poor">missing</span> {escape(part)}</p>'
        for part in files.missing_parts
    )
    return (
        f"<h1>{escape(name)}</h1><p class='soft'>{escape(' · '.join(facts))}</p>"
        "<nav><a href='#scores'>Scores</a><a href='#training'>Training</a>"
        "<a href='#gallery'>Gallery</a><a href='#provenance'>Provenance</a></nav>" + missing
    )


def _scores_html(evaluation: Evaluation | None) -> str:
    title = "<h2 id='scores'>Nine tasks</h2>"
    if evaluation is None:
        return title + "<p class='soft'>Not evaluated yet.</p>"
    rows = evaluation.results["rows"]
    by_split = splits_table(rows)
    parts = [title, f"<p class='soft'>{_EXPLANATION}</p>", headline_table(rows)]
    if by_split:
        parts.append("<h3>By split</h3><p class='soft'>iid: new samples of the training "
                     "distribution; comp: combinations never trained on; style, voice: styles and "
                     "voices never trained on; xmodal: facts trained on in another modality "
                     "only.</p>" + by_split)  # fmt: skip
    parts.append(_details_html("Every metric, split and group", full_table(rows)))
    parts.append(
        _details_html(
            "How random baseline and ground truth were measured", measurement_rules_table(rows)
        )
    )
    absent = evaluation.results.get("missing", [])
    if absent:
        names = ", ".join(f"{m['task']} on {m['split']}" for m in absent)
        parts.append(_details_html("Tasks without such a split", f"<p>{escape(names)}</p>"))
    return "".join(parts)


def _training_html(stages: Sequence[LoggedStage]) -> str:
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
            parts.append(_details_html(f"{len(charts) - _SHOWN} more charts", rest))
    return "".join(parts)


def _tokenizers_html(files: RunFiles) -> str:
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
    parts = [text_table(head, rest) for head, *rest in files.tokenizer_tables]
    if lines:
        parts.append(text_table(("tokenizer", "validation score", "value", "step"), lines))
    if reconstructed:
        head = ("task", "split", "metric", "codec reconstruction", "ground truth")
        table = text_table(head, reconstructed)
        parts.append(_details_html("Scores of the ground truth, reconstructed and original", table))
    return "<h2>Tokenizers</h2>" + "".join(parts) if parts else ""


def _gallery_html(evaluation: Evaluation | None) -> str:
    title = "<h2 id='gallery'>Gallery</h2>"
    if evaluation is None or not evaluation.gallery:
        return title + "<p class='soft'>No gallery: it is written by the evaluation.</p>"
    note = "<p class='soft'>The first evaluated examples, not the best.</p>"
    return title + note + gallery_html(evaluation.folder, evaluation.gallery)


def _provenance_html(files: RunFiles) -> str:
    parts = ["<h2 id='provenance'>Provenance</h2>"]
    if files.evaluation:
        results = files.evaluation.results
        names = ("model", "fingerprint", "codes", "manifest_sha256", "commit", "created", "python",
                 "platform", "device", "precision", "attention")  # fmt: skip
        lines = [(name, results.get(name)) for name in names]
        lines += list(results.get("packages", {}).items())
        lines += [(f"argument {k}", v) for k, v in results.get("arguments", {}).items()]
        parts.append(text_table(("what", "value"), lines))
    if files.manifest:
        parts.append(_details_html("Data", _data_html(files.manifest)))
    parts += [
        _details_html(f"Recipe of {stage.name}, as resolved", f"<pre>{escape(stage.recipe)}</pre>")
        for stage in files.stages
        if stage.recipe
    ]
    return "".join(parts)


def _data_html(manifest: dict[str, Any]) -> str:
    """Return the manifest without its list of shards."""
    lines = [(k, v) for k, v in manifest.items() if k != "shards"]
    return text_table(("what", "value"), lines)


def _details_html(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
