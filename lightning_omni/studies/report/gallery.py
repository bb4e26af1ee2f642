"""The gallery: request, ground truth, their codec reconstructions, and the model's answer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.studies.report.data_uris import file_data_uri, spectrogram_uri
from lightning_omni.studies.report.tables import METRIC_NAMES, TASK_TITLES

_SIDES = (
    ("request", "request"),
    ("request_reconstruction", "request, codec reconstruction"),
    ("ground_truth", "ground truth"),
    ("ground_truth_reconstruction", "ground truth, codec reconstruction"),
    ("generated", "model"),
)
_OLD_SIDES = {
    "request": "asked",
    "request_reconstruction": "asked_reconstruction",
    "ground_truth": "wanted",
    "ground_truth_reconstruction": "wanted_reconstruction",
}
"""Keys in galleries written before 0.2."""


def gallery_html(home: Path, entries: Sequence[dict[str, Any]]) -> str:
    """Return the gallery as HTML, task by task.

    Args:
        home: Folder of the media.
        entries: Entries of `gallery.json`.
    """
    parts = []
    for task, title in TASK_TITLES.items():
        chosen = [e for e in entries if e["task"] == task]
        if chosen:
            parts.append(f"<h3>{escape(title)}</h3>")
            parts += [_entry_html(home, entry) for entry in chosen]
    return "".join(parts)


def _entry_html(home: Path, entry: dict[str, Any]) -> str:
    sides = "".join(
        _column_html(
            home,
            name,
            entry.get(side) or entry.get(_OLD_SIDES.get(side, side)) or {},
            is_reconstruction="reconstruction" in side,
        )
        for side, name in _SIDES
    )
    meta = entry.get("meta", {})
    facts = [entry["split"], *(str(meta[k]) for k in ("kind", "family", "voice") if k in meta)]
    return (
        f'<article class="exhibit"><header>{escape(" · ".join(facts))}</header>'
        f'<div class="sides">{sides}</div>{_scores_html(entry)}</article>'
    )


def _column_html(home: Path, name: str, side: dict[str, str], *, is_reconstruction: bool) -> str:
    """Return one column; a codec reconstruction has media only."""
    parts = []
    if "text" in side and not is_reconstruction:
        parts.append(f'<div class="said">“{escape(side["text"])}”</div>')
    if "image" in side:
        uri = file_data_uri(_resolve_inside(home, side["image"]))
        parts.append(f'<img class="picture" src="{uri}" alt="{escape(name)}">')
    if "speech" in side:
        path = _resolve_inside(home, side["speech"])
        picture, seconds = spectrogram_uri(path)
        parts.append(
            f'<img class="sound" src="{picture}" alt="spectrogram, {seconds:.1f} s">'
            f'<audio controls preload="none" src="{file_data_uri(path)}"></audio>'
        )
    if not parts:
        return ""
    return f'<figure class="side"><figcaption>{escape(name)}</figcaption>{"".join(parts)}</figure>'


def _scores_html(entry: dict[str, Any]) -> str:
    """Return what was recognised in the answer, and its scores."""
    prediction = entry.get("prediction") or entry.get("reading", {})  # the latter before 0.2
    parts = []
    if entry.get("failure"):
        parts.append(f'<span class="badge bad">{escape(entry["failure"])}</span>')
    if "transcript" in prediction:
        parts.append(f"recognised as “{escape(prediction['transcript'])}”")
    if "scene" in prediction:
        parts.append(f"classified as {escape(_describe_scene(prediction['scene']))}")
    for name, (top, bottom) in entry.get("metrics", {}).items():
        label = escape(METRIC_NAMES.get(name, name))
        if name in ("wer", "cer"):
            parts.append(f"{label} {top:g}/{bottom:g}")
        else:
            mark, style = ("✓", "good") if top else ("✗", "bad")
            parts.append(f'<span class="badge {style}">{mark} {label}</span>')
    return f'<div class="said soft">{" ".join(parts)}</div>'


def _describe_scene(scene: dict[str, Any]) -> str:
    objects = [str(o) for o in scene.get("objects", [])]
    if scene.get("relation") and len(objects) == 2:
        what = f"{objects[0]} {scene['relation']} {objects[1]}"
    else:
        what = f"{scene.get('count', 1)} × {' and '.join(objects)}"
    return f"{what} on {scene.get('background')}"


def _resolve_inside(home: Path, name: str) -> Path:
    """Resolve a path of the index.

    Raises:
        OmniError: If it leaves the folder.
    """
    path = (home / name).resolve()
    if not path.is_relative_to(home.resolve()):
        raise OmniError(f"gallery path '{name}' leaves '{home}'; evaluate again")
    return path
