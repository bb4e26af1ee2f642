"""The gallery: what was asked, the truth, what the codes keep of it, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from lightning_omni.errors import OmniError
from lightning_omni.studies.report.media import data_uri, spectrogram_uri
from lightning_omni.studies.report.tables import METRIC_NAMES, TASK_NAMES

_SIDES = (
    ("asked", "asked"),
    ("asked_reconstruction", "asked, through the codes"),
    ("wanted", "truth"),
    ("wanted_reconstruction", "truth, through the codes"),
    ("generated", "the model's answer"),
)


def gallery(home: Path, entries: Sequence[dict[str, Any]]) -> str:
    """Show exhibits task by task; media lie under `home`."""
    parts = []
    for task, title in TASK_NAMES.items():
        chosen = [e for e in entries if e["task"] == task]
        if chosen:
            parts.append(f"<h3>{escape(title)}</h3>")
            parts += [_exhibit(home, entry) for entry in chosen]
    return "".join(parts)


def _exhibit(home: Path, entry: dict[str, Any]) -> str:
    sides = "".join(
        _side(home, name, entry.get(side) or {}, is_copy="reconstruction" in side)
        for side, name in _SIDES
    )
    meta = entry.get("meta", {})
    facts = [entry["split"], *(str(meta[k]) for k in ("kind", "family", "voice") if k in meta)]
    return (
        f'<article class="exhibit"><header>{escape(" · ".join(facts))}</header>'
        f'<div class="sides">{sides}</div>{_judgement(entry)}</article>'
    )


def _side(home: Path, name: str, side: dict[str, str], *, is_copy: bool) -> str:
    """Show one side; a copy through the codes has only media to show."""
    parts = []
    if "text" in side and not is_copy:
        parts.append(f'<div class="said">“{escape(side["text"])}”</div>')
    if "image" in side:
        uri = data_uri(_inside(home, side["image"]))
        parts.append(f'<img class="picture" src="{uri}" alt="{escape(name)}">')
    if "speech" in side:
        path = _inside(home, side["speech"])
        picture, seconds = spectrogram_uri(path)
        parts.append(
            f'<img class="sound" src="{picture}" alt="spectrogram, {seconds:.1f} s">'
            f'<audio controls preload="none" src="{data_uri(path)}"></audio>'
        )
    if not parts:
        return ""
    return f'<figure class="side"><figcaption>{escape(name)}</figcaption>{"".join(parts)}</figure>'


def _judgement(entry: dict[str, Any]) -> str:
    """What was read off the answer, and what that earned."""
    reading = entry.get("reading", {})
    parts = []
    if entry.get("failure"):
        parts.append(f'<span class="badge bad">{escape(entry["failure"])}</span>')
    if "transcript" in reading:
        parts.append(f"heard as “{escape(reading['transcript'])}”")
    if "scene" in reading:
        parts.append(f"seen as {escape(_scene_words(reading['scene']))}")
    for name, (top, bottom) in entry.get("metrics", {}).items():
        label = escape(METRIC_NAMES.get(name, name))
        if name in ("wer", "cer"):
            parts.append(f"{label} {top:g}/{bottom:g}")
        else:
            mark, style = ("✓", "good") if top else ("✗", "bad")
            parts.append(f'<span class="badge {style}">{mark} {label}</span>')
    return f'<div class="said soft">{" ".join(parts)}</div>'


def _scene_words(scene: dict[str, Any]) -> str:
    objects = [str(o) for o in scene.get("objects", [])]
    if scene.get("relation") and len(objects) == 2:
        what = f"{objects[0]} {scene['relation']} {objects[1]}"
    else:
        what = f"{scene.get('count', 1)} × {' and '.join(objects)}"
    return f"{what} on {scene.get('background')}"


def _inside(home: Path, name: str) -> Path:
    """Resolve a path of the index; one that leaves the folder is refused."""
    path = (home / name).resolve()
    if not path.is_relative_to(home.resolve()):
        raise OmniError(f"gallery path '{name}' leaves '{home}'; evaluate again")
    return path
