"""Gallery of an evaluation: a few examples as files, each with prompt, reference and response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_omni.data.media import png_bytes, wave_bytes
from lightning_omni.evaluation.examples import Example, Response
from lightning_omni.evaluation.statistics import Score
from lightning_omni.whole_files import write_files, write_text

GALLERY = "gallery"
INDEX = "gallery.json"
_FACTS = (
    *("set", "family", "kind", "topic", "voice", "answer_voice", "style", "source"),
    *("question", "answer", "answer_text", "caption", "text", "fact"),
)


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One example with a model's response.

    Attributes:
        split: Split of the example.
        example: Prompt and reference.
        response: Response of the model.
        score: Score of the response.
        prompt_reconstruction: Decoded codes of the prompt, or None without tokenizers.
        reference_reconstruction: Decoded codes of the reference, or None without tokenizers.
    """

    split: str
    example: Example
    response: Response
    score: Score
    prompt_reconstruction: Response | None
    reference_reconstruction: Response | None


def save_gallery(out: Path, task: str, items: Sequence[GalleryItem]) -> list[dict[str, Any]]:
    """Write media to `out/gallery`; return entries of the index, with paths relative to `out`."""
    return [
        _save_item(out, Path(GALLERY) / task / f"{item.split}-{number:02d}", task, item)
        for number, item in enumerate(items)
    ]


def write_gallery_index(out: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write `gallery.json`."""
    write_text(out / INDEX, json.dumps(list(entries), indent=1, ensure_ascii=False) + "\n")


def interleave_splits(
    items: Sequence[GalleryItem], splits: Sequence[str], limit: int
) -> list[GalleryItem]:
    """Take items from each split in turn, up to `limit`."""
    queues = [[item for item in items if item.split == split] for split in splits]
    rounds = max((len(q) for q in queues), default=0)
    mixed = [q[i] for i in range(rounds) for q in queues if i < len(q)]
    return mixed[:limit]


def _save_item(out: Path, folder: Path, task: str, item: GalleryItem) -> dict[str, Any]:
    example, score = item.example, item.score
    sides = {
        "request": example.prompt,
        "request_reconstruction": item.prompt_reconstruction,
        "ground_truth": example.reference,
        "ground_truth_reconstruction": item.reference_reconstruction,
        "generated": item.response,
    }
    return {
        "task": task,
        "split": item.split,
        "key": example.sample.key,
        "meta": {k: example.meta[k] for k in _FACTS if example.meta.get(k) is not None},
        **{name: _save_response(out, folder / name, side) for name, side in sides.items()},
        "prediction": score.output,
        "metrics": score.metrics,
        "failure": score.failure,
    }


def _save_response(out: Path, stem: Path, response: Response | None) -> dict[str, str]:
    """Write media as STEM.png and STEM.flac; text stays in the index."""
    if response is None:
        return {}
    (out / stem).parent.mkdir(parents=True, exist_ok=True)
    saved: dict[str, str] = {}
    if response.text is not None:
        saved["text"] = response.text
    if response.image is not None:
        saved["image"] = f"{stem}.png"
        write_files({out / saved["image"]: png_bytes(response.image, optimize=True)})
    speech = response.speech
    if speech is not None and len(speech) and np.isfinite(speech).all():
        saved["speech"] = f"{stem}.flac"
        wave = np.clip(speech, -1, 1)
        raw = wave_bytes(wave, response.sample_rate, "FLAC", "PCM_16")
        write_files({out / saved["speech"]: raw})
    return saved
