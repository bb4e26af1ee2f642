"""Test cases: an encoded sample beside the real media it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.data.shards import read_samples
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.media import SAMPLE_RATE, Recording, read_images, read_speech
from lightning_omni.tasks import task_named
from lightning_omni.types import Part, Role, Sample, Turn

_KNOWN = ("voice", "answer_voice")
SCENE_TASKS = ("t2i", "s2i")


@dataclass(frozen=True, slots=True)
class Reply:
    """One side of a conversation as people perceive it.

    `error` says why it is not there; `is_finished` is False where a model ran out of room.
    """

    text: str | None = None
    image: Image.Image | None = None
    speech: NDArray[np.float32] | None = None
    sample_rate: int = SAMPLE_RATE
    error: str | None = None
    is_finished: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its true answer.

    `sample` is the encoded form that a model is given; `said` the words of a spoken answer, which
    may be a whole sentence where the text of the answer is a word; `choices` the texts of all
    answers that the split has to the same kind of question, or all its sentences where speech is
    read or spoken as it stands.
    """

    sample: Sample
    asked: Reply
    wanted: Reply
    said: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def meta(self) -> dict[str, Any]:
        """Facts of the sample."""
        return self.sample.meta


def part_of(sample: Sample, role: Role, modality: str) -> Part | None:
    """First part of a modality that a side says."""
    parts = (p for t in sample.turns if t.role == role for p in t.parts)
    return next((p for p in parts if p.modality == modality), None)


def kind_of_question(sample: Sample) -> str:
    """Name the group of questions that a guesser can tell from the question alone."""
    meta = sample.meta
    return str(meta.get("kind") or meta.get("topic") or meta.get("set") or "all")


def is_judgeable(task: str, sample: Sample) -> bool:
    """Tell whether a metric exists for a sample: drawings are judged where the scene is known."""
    return task not in SCENE_TASKS or sample.meta.get("set") == "scene"


def pick(samples: Sequence[Sample], limit: int, *, seed: int, salt: str) -> list[Sample]:
    """Draw `limit` samples without replacement; the same ones for the same seed and salt."""
    ordered = sorted(samples, key=lambda s: s.key)
    Random(f"{seed}/{salt}").shuffle(ordered)
    return ordered[:limit]


def load_cases(
    data: Path, codes: Path, task: str, split: str, *, limit: int, seed: int
) -> tuple[list[Case], list[Sample]]:
    """Pick cases of a task and split and load their media.

    Returns:
        The cases, and all judgeable samples of the split they were picked from (with media keys).
    """
    plain = [s for s in read_samples(data / "tasks", task, split) if is_judgeable(task, s)]
    chosen = pick(plain, limit, seed=seed, salt=f"{task}/{split}")
    encoded = {s.key: s for s in read_samples(codes, task, split)} if chosen else {}
    missing = [s.key for s in chosen if s.key not in encoded]
    if missing:
        raise OmniError(
            f"sample '{missing[0]}' of {task}-{split} is in '{data / 'tasks'}' but not in "
            f"'{codes}'; delete that codes folder and encode again"
        )
    images = read_images(data, _keys(chosen, "image"))
    speech = read_speech(data, _keys(chosen, "speech"))
    choices = _choices(plain) if task_named(task).answers == ("text", "speech") else {}
    sentences = _sentences(plain) if task in ("asr", "tts") else ()
    cases = [
        Case(
            encoded[s.key],
            _media_reply(s, "user", images, speech),
            _media_reply(s, "assistant", images, speech),
            _words_said(s, speech),
            choices.get(kind_of_question(s), sentences),
        )
        for s in chosen
    ]
    return cases, plain


def without_answer(sample: Sample) -> Sample:
    """Keep what may be known: the question, the voice, and which modalities the answer has."""
    turns = tuple(
        Turn(t.role, tuple(Part(p.modality) for p in t.parts)) if t.role == "assistant" else t
        for t in sample.turns
    )
    meta = {k: v for k, v in sample.meta.items() if k in _KNOWN}
    return replace(sample, turns=turns, meta=meta)


def _keys(samples: Sequence[Sample], modality: str) -> set[str]:
    parts = (p for s in samples for t in s.turns for p in t.parts if p.modality == modality)
    return {p.key for p in parts if p.key is not None}


def _media_reply(
    sample: Sample,
    role: Role,
    images: dict[str, Image.Image],
    speech: dict[str, Recording],
) -> Reply:
    text = part_of(sample, role, "text")
    image, sound = part_of(sample, role, "image"), part_of(sample, role, "speech")
    return Reply(
        text.text if text else None,
        images[image.key] if image and image.key else None,
        speech[sound.key].wave if sound and sound.key else None,
    )


def _sentences(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Distinct sentences that a split reads or speaks."""
    texts = (p.text for s in samples for t in s.turns for p in t.parts if p.modality == "text")
    return tuple(dict.fromkeys(text for text in texts if text))


def _choices(samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    """Distinct texts of the answers, by kind of question."""
    found: dict[str, set[str]] = {}
    for sample in samples:
        part = part_of(sample, "assistant", "text")
        if part is not None and part.text:
            found.setdefault(kind_of_question(sample), set()).add(part.text)
    return {kind: tuple(sorted(texts)) for kind, texts in found.items()}


def _words_said(sample: Sample, speech: dict[str, Recording]) -> str | None:
    sound = part_of(sample, "assistant", "speech")
    return speech[sound.key].text if sound and sound.key else None
