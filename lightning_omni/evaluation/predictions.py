"""Parsing of responses: speech through a recognizer, pictures through the scene classifier."""

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
from lightning_omni.evaluation.emojiworld.scene_classifier import (
    SceneClassifier,
    images_to_tensor,
)
from lightning_omni.evaluation.examples import Example, Response
from lightning_omni.tasks import task_named

_SHORTEST_S = 0.05


@runtime_checkable
class Recognizer(Protocol):
    """Speech to text."""

    def transcribe(self, wave: NDArray[np.float32], sample_rate: int) -> str:
        """Transcribe mono speech."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A response in the form that metrics compare.

    Attributes:
        text: Text of the response.
        transcript: Its speech, as transcribed by the recognizer.
        scene: Its picture, as read by the scene classifier.
        failure: Why the response could not be parsed, or not all of it; None if it could.
        is_finished: False where the response has no end token.
    """

    text: str | None = None
    transcript: str | None = None
    scene: Scene | None = None
    failure: str | None = None
    is_finished: bool = True


class ResponseParser:
    """Turns responses into predictions; equal recordings are transcribed once.

    Args:
        recognizer: Speech recognizer; None if no task needs one.
        classifier: Scene classifier; None if no task draws.
    """

    def __init__(self, recognizer: Recognizer | None, classifier: SceneClassifier | None) -> None:
        self.recognizer, self.classifier = recognizer, classifier
        self._transcripts: dict[str, str] = {}

    def transcribe(self, wave: NDArray[np.float32], sample_rate: int) -> str:
        """Transcribe a recording.

        Raises:
            OmniError: If there is no recognizer.
        """
        if self.recognizer is None:
            raise OmniError(
                "spoken answers need the recognizer; install the evaluation extra with "
                "`pip install 'lightning-omni[eval]'`, or drop the spoken tasks"
            )
        key = hashlib.sha256(np.ascontiguousarray(wave).tobytes()).hexdigest() + str(sample_rate)
        if key not in self._transcripts:
            self._transcripts[key] = self.recognizer.transcribe(wave, sample_rate)
        return self._transcripts[key]

    def classify(self, images: Sequence[Image.Image]) -> list[Scene]:
        """Classify pictures of scenes.

        Raises:
            OmniError: If there is no scene classifier.
        """
        if self.classifier is None:
            raise OmniError("drawn answers need the scene classifier; prepare data that has scenes")
        batches = [images[i : i + 64] for i in range(0, len(images), 64)]
        return [s for batch in batches for s in self.classifier.classify(images_to_tensor(batch))]

    def parse(self, task: str, responses: Sequence[Response]) -> list[Prediction]:
        """Parse the modalities that the task's answers have."""
        answers = task_named(task).outputs
        pictures = [r.image for r in responses if r.image is not None and r.error is None]
        scenes = iter(self.classify(pictures) if "image" in answers and pictures else [])
        predictions = []
        for response in responses:
            if response.error is not None:
                predictions.append(Prediction(failure=response.error))
                continue
            has_scene = "image" in answers and response.image is not None
            predictions.append(
                Prediction(
                    (response.text or "").strip() or None if "text" in answers else None,
                    self._transcribe_response(response) if "speech" in answers else None,
                    next(scenes) if has_scene else None,
                    missing_modality(answers, response),
                    response.is_finished,
                )
            )
        return predictions

    def _transcribe_response(self, response: Response) -> str | None:
        if missing_modality(("speech",), response) or response.speech is None:
            return None
        return self.transcribe(response.speech, response.sample_rate)


def needs_recognizer(task: str) -> bool:
    """Tell whether the scores of a task need the recognizer: spoken answers and recordings do."""
    return "speech" in task_named(task).outputs or task_named(task).is_transcription


def missing_modality(answers: Sequence[str], response: Response) -> str | None:
    """Name what a response lacks: text, an image, or finite speech of some length."""
    if "text" in answers and not (response.text or "").strip():
        return "no text"
    if "image" in answers and response.image is None:
        return "no image"
    if "speech" in answers:
        if response.speech is None or len(response.speech) < _SHORTEST_S * response.sample_rate:
            return "no speech"
        if not np.isfinite(response.speech).all():
            return "speech is not finite"
    return None


def ground_truth_predictions(
    task: str, examples: Sequence[Example], parser: ResponseParser
) -> list[Prediction]:
    """Parse the references themselves: an upper bound of what the metric gives.

    References of speech recognition are texts, so the recognizer transcribes the original
    recordings instead.
    """
    if task_named(task).is_transcription:
        return transcribe_prompts([e.prompt for e in examples], parser)
    return parser.parse(task, [e.reference for e in examples])


def transcribe_prompts(prompts: Sequence[Response], parser: ResponseParser) -> list[Prediction]:
    """Transcribe the speech of prompts."""
    return [
        Prediction(text=parser.transcribe(p.speech, p.sample_rate))
        if p.speech is not None
        else Prediction(failure="no speech")
        for p in prompts
    ]
