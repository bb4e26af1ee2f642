"""Read answers as a person would: hear speech with a recognizer, look at images with the oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.emojiworld.captions import Scene
from lightning_omni.evaluation.emojiworld.scene_classifier import SceneOracle
from lightning_omni.evaluation.emojiworld.train_classifier import to_tensor
from lightning_omni.evaluation.examples import Case, Reply
from lightning_omni.tasks import task_named

_SHORTEST_S = 0.05


@runtime_checkable
class Recognizer(Protocol):
    """Speech to text."""

    def transcribe(self, wave: NDArray[np.float32], sample_rate: int) -> str:
        """Transcribe mono speech."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was understood of a reply; `failure` says why nothing, or not all, could be."""

    text: str | None = None
    transcript: str | None = None
    scene: Scene | None = None
    failure: str | None = None
    is_finished: bool = True


class Reader:
    """Turns replies into readings; a recording that was heard before is not heard again.

    Args:
        recognizer: Needed as soon as a task's answers are spoken, and for the reference of asr.
        oracle: Needed as soon as a task's answers are drawn.
    """

    def __init__(self, recognizer: Recognizer | None, oracle: SceneOracle | None) -> None:
        self.recognizer, self.oracle = recognizer, oracle
        self._heard: dict[str, str] = {}

    def transcribe(self, wave: NDArray[np.float32], sample_rate: int) -> str:
        """Hear a recording."""
        if self.recognizer is None:
            raise OmniError(
                "spoken answers need the recognizer; install the evaluation extra with "
                "`pip install 'lightning-omni[eval]'`, or drop the spoken tasks"
            )
        key = hashlib.sha256(np.ascontiguousarray(wave).tobytes()).hexdigest() + str(sample_rate)
        if key not in self._heard:
            self._heard[key] = self.recognizer.transcribe(wave, sample_rate)
        return self._heard[key]

    def look(self, images: Sequence[Image.Image]) -> list[Scene]:
        """See what images show."""
        if self.oracle is None:
            raise OmniError("drawn answers need the scene oracle; prepare data that has scenes")
        batches = [images[i : i + 64] for i in range(0, len(images), 64)]
        return [scene for batch in batches for scene in self.oracle.read(to_tensor(batch))]

    def read(self, task: str, replies: Sequence[Reply]) -> list[Reading]:
        """Read the modalities that the task's answers have."""
        answers = task_named(task).answers
        pictures = [r.image for r in replies if r.image is not None and r.error is None]
        scenes = iter(self.look(pictures) if "image" in answers and pictures else [])
        readings = []
        for reply in replies:
            if reply.error is not None:
                readings.append(Reading(failure=reply.error))
                continue
            has_scene = "image" in answers and reply.image is not None
            readings.append(
                Reading(
                    (reply.text or "").strip() or None if "text" in answers else None,
                    self._hear(reply) if "speech" in answers else None,
                    next(scenes) if has_scene else None,
                    missing_modality(answers, reply),
                    reply.is_finished,
                )
            )
        return readings

    def _hear(self, reply: Reply) -> str | None:
        if missing_modality(("speech",), reply) or reply.speech is None:
            return None
        return self.transcribe(reply.speech, reply.sample_rate)


def missing_modality(answers: Sequence[str], reply: Reply) -> str | None:
    """Name what a reply lacks: text, an image, or speech that lasts and is finite."""
    if "text" in answers and not (reply.text or "").strip():
        return "no text"
    if "image" in answers and reply.image is None:
        return "no image"
    if "speech" in answers:
        if reply.speech is None or len(reply.speech) < _SHORTEST_S * reply.sample_rate:
            return "no speech"
        if not np.isfinite(reply.speech).all():
            return "speech is not finite"
    return None


def reference_readings(task: str, cases: Sequence[Case], reader: Reader) -> list[Reading]:
    """Read the truth itself: the best that the metric can give.

    For asr, where the truth is text, the recognizer stands in: it hears the same recordings.
    """
    if task == "asr":
        return hear_questions([c.asked for c in cases], reader)
    return reader.read(task, [c.wanted for c in cases])


def hear_questions(asked: Sequence[Reply], reader: Reader) -> list[Reading]:
    """Transcribe what users said."""
    return [
        Reading(text=reader.transcribe(a.speech, a.sample_rate))
        if a.speech is not None
        else Reading(failure="no speech")
        for a in asked
    ]
