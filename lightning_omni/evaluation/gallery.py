"""Keep a few answers as files: what was asked, the truth, its reconstruction and the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lightning_omni.evaluation.examples import Case, Reply
from lightning_omni.evaluation.outcome import Outcome

GALLERY = "gallery"
INDEX = "gallery.json"
_META = (
    *("set", "family", "kind", "topic", "voice", "answer_voice", "style", "source"),
    *("question", "answer", "answer_text", "caption", "text", "fact"),
)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One case with everything there is to show."""

    split: str
    case: Case
    generated: Reply
    outcome: Outcome
    asked_reconstruction: Reply | None
    wanted_reconstruction: Reply | None


def save_gallery(out: Path, task: str, exhibits: Sequence[Exhibit]) -> list[dict[str, Any]]:
    """Write the media under `out/gallery` and return entries with paths relative to `out`."""
    entries = []
    for number, exhibit in enumerate(exhibits):
        case = exhibit.case
        folder = Path(GALLERY) / task / f"{exhibit.split}-{number:02d}"
        entries.append(
            {
                "task": task,
                "split": exhibit.split,
                "key": case.sample.key,
                "meta": {k: case.meta[k] for k in _META if case.meta.get(k) is not None},
                "asked": _save(out, folder / "asked", case.asked),
                "asked_reconstruction": _save(
                    out, folder / "asked_reconstruction", exhibit.asked_reconstruction
                ),
                "wanted": _save(out, folder / "wanted", case.wanted),
                "wanted_reconstruction": _save(
                    out, folder / "wanted_reconstruction", exhibit.wanted_reconstruction
                ),
                "generated": _save(out, folder / "generated", exhibit.generated),
                "reading": exhibit.outcome.output,
                "metrics": exhibit.outcome.metrics,
                "failure": exhibit.outcome.failure,
            }
        )
    return entries


def write_index(out: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write `gallery.json`."""
    (out / INDEX).write_text(json.dumps(list(entries), indent=1, ensure_ascii=False) + "\n")


def _save(out: Path, stem: Path, reply: Reply | None) -> dict[str, str]:
    """Write a side's media as STEM.png and STEM.flac; text stays in the index."""
    if reply is None:
        return {}
    (out / stem).parent.mkdir(parents=True, exist_ok=True)
    saved: dict[str, str] = {}
    if reply.text is not None:
        saved["text"] = reply.text
    if reply.image is not None:
        saved["image"] = f"{stem}.png"
        reply.image.save(out / saved["image"], optimize=True)
    if reply.speech is not None and len(reply.speech) and np.isfinite(reply.speech).all():
        saved["speech"] = f"{stem}.flac"
        wave = np.clip(reply.speech, -1, 1)
        soundfile.write(out / saved["speech"], wave, reply.sample_rate, subtype="PCM_16")
    return saved
