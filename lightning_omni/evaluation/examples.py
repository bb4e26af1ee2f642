"""Test examples: encoded samples beside the original media that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.data.shards import read_samples
from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.emojiworld.metadata import is_scene, question_kind
from lightning_omni.evaluation.original_media import Recording, read_images, read_speech
from lightning_omni.modalities import SAMPLE_RATE
from lightning_omni.tasks import scoring_of_task
from lightning_omni.types import Part, Role, Sample, Turn

_GIVEN_FACTS = ("voice", "answer_voice")


@dataclass(frozen=True, slots=True)
class Response:
    """Text, image and sound of one turn: a model's response, a reference or a prompt.

    Attributes:
        text: Text, if the turn has some.
        image: Picture, if the turn has one.
        speech: Mono samples in [-1, 1], if the turn has speech.
        sample_rate: Sample rate of `speech`, in Hz.
        error: Message of the error that prevented a response, or None.
        is_finished: False where a model used up its response length without an end token.
    """

    text: str | None = None
    image: Image.Image | None = None
    speech: NDArray[np.float32] | None = None
    sample_rate: int = SAMPLE_RATE
    error: str | None = None
    is_finished: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its reference answer.

    Attributes:
        sample: Encoded form, from which the model's input is made.
        prompt: User's turn, in the original media.
        reference: Reference answer, in the original media.
        transcript: Words of a spoken reference; may be a whole sentence where the reference's text
            is a word.
        choices: Texts of all answers in the split to the same kind of question, or all sentences
            of the split where speech is transcribed or read aloud.
    """

    sample: Sample
    prompt: Response
    reference: Response
    transcript: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def meta(self) -> dict[str, Any]:
        """Facts of the sample."""
        return self.sample.meta


def first_part(sample: Sample, role: Role, modality: str) -> Part | None:
    """Return the first part of a modality in the turns of a role."""
    parts = (p for t in sample.turns if t.role == role for p in t.parts)
    return next((p for p in parts if p.modality == modality), None)


def is_scorable(task: str, sample: Sample) -> bool:
    """Tell whether a metric applies to a sample: drawings need the facts of the scene."""
    return scoring_of_task(task).scorer != "scene" or is_scene(sample)


def scene_samples(data: Location, split: str) -> list[Sample]:
    """Return the samples of composed scenes in a split, with media keys."""
    tasks = ("t2i", "caption")
    return [s for task in tasks for s in read_samples(data / "tasks", task, split) if is_scene(s)]


def draw_samples(samples: Sequence[Sample], limit: int, *, seed: int, salt: str) -> list[Sample]:
    """Draw samples without replacement; a larger limit keeps those of a smaller one.

    Args:
        samples: Samples with distinct keys, in any order.
        limit: Largest number of samples to draw.
        seed: Seed of the draw.
        salt: Name of the draw; draws with other names are independent.
    """
    ordered = sorted(samples, key=lambda s: s.key)
    Random(f"{seed}/{salt}").shuffle(ordered)
    return ordered[:limit]


def load_examples(
    data: Location, codes: Location, task: str, split: str, *, limit: int, seed: int
) -> tuple[list[Example], list[Sample]]:
    """Draw examples of a task and split and load their media.

    Returns:
        The examples, and all scorable samples of the split they were drawn from (with media keys).

    Raises:
        OmniError: If a sample is not among the encoded ones.
    """
    plain = [s for s in read_samples(data / "tasks", task, split) if is_scorable(task, s)]
    chosen = draw_samples(plain, limit, seed=seed, salt=f"{task}/{split}")
    encoded = {s.key: s for s in read_samples(codes, task, split)} if chosen else {}
    missing = [s.key for s in chosen if s.key not in encoded]
    if missing:
        raise OmniError(
            f"sample '{missing[0]}' of {task}-{split} is in '{data / 'tasks'}' but not in "
            f"'{codes}'; delete that codes folder and encode again"
        )
    images = read_images(data, _media_keys(chosen, "image"))
    speech = read_speech(data, _media_keys(chosen, "speech"))
    scorer = scoring_of_task(task).scorer
    choices = _answer_choices(plain) if scorer == "spoken_answer" else {}
    sentences = _distinct_texts(plain) if scorer in ("transcript", "speech") else ()
    examples = [
        Example(
            encoded[s.key],
            _original_media(s, "user", images, speech),
            _original_media(s, "assistant", images, speech),
            _reference_transcript(s, speech),
            choices.get(question_kind(s), sentences),
        )
        for s in chosen
    ]
    return examples, plain


def as_model_input(sample: Sample) -> Sample:
    """Return a model's input: the prompt, the voice and the modalities of the answer, no facts."""
    turns = tuple(
        Turn(t.role, tuple(Part(p.modality) for p in t.parts)) if t.role == "assistant" else t
        for t in sample.turns
    )
    meta = {k: v for k, v in sample.meta.items() if k in _GIVEN_FACTS}
    return replace(sample, turns=turns, meta=meta)


def _media_keys(samples: Sequence[Sample], modality: str) -> set[str]:
    parts = (p for s in samples for t in s.turns for p in t.parts if p.modality == modality)
    return {p.key for p in parts if p.key is not None}


def _original_media(
    sample: Sample,
    role: Role,
    images: dict[str, Image.Image],
    speech: dict[str, Recording],
) -> Response:
    text = first_part(sample, role, "text")
    image, sound = first_part(sample, role, "image"), first_part(sample, role, "speech")
    return Response(
        text.text if text else None,
        images[image.key] if image and image.key else None,
        speech[sound.key].wave if sound and sound.key else None,
    )


def _distinct_texts(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the distinct texts of a split."""
    texts = (p.text for s in samples for t in s.turns for p in t.parts if p.modality == "text")
    return tuple(dict.fromkeys(text for text in texts if text))


def _answer_choices(samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    """Return the distinct texts of the answers by kind of question."""
    found: dict[str, set[str]] = {}
    for sample in samples:
        part = first_part(sample, "assistant", "text")
        if part is not None and part.text:
            found.setdefault(question_kind(sample), set()).add(part.text)
    return {kind: tuple(sorted(texts)) for kind, texts in found.items()}


def _reference_transcript(sample: Sample, speech: dict[str, Recording]) -> str | None:
    sound = first_part(sample, "assistant", "speech")
    return speech[sound.key].text if sound and sound.key else None
