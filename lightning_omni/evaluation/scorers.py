"""Scorers: metrics of a prediction against its reference. Failed predictions score zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

from lightning_omni.evaluation.emojiworld.captions import Scene, caption_matches, parse_caption
from lightning_omni.evaluation.emojiworld.metadata import is_scene, scene_from_meta
from lightning_omni.evaluation.emojiworld.scene_classifier import scene_matches
from lightning_omni.evaluation.examples import Example
from lightning_omni.evaluation.predictions import Prediction
from lightning_omni.evaluation.statistics import Score, metrics_of_verdicts
from lightning_omni.evaluation.text_normalization import (
    contains_answer,
    normalize_answer,
    normalize_text,
    split_words,
)
from lightning_omni.metrics.wer import character_errors, word_errors
from lightning_omni.tasks import scoring_of_task

Metrics = dict[str, tuple[float, float]]
"""(numerator, denominator) by metric, as in `Score`."""
_CARRIER_WORDS = 8  # a spoken answer may be a sentence, but not a list of everything


def score_prediction(
    task: str, example: Example, prediction: Prediction, *, inks: Iterable[str]
) -> Score:
    """Score one prediction.

    Args:
        task: Name of the task.
        example: Example that was predicted.
        prediction: Parsed response.
        inks: Names of the colours that silhouettes have in the data.
    """
    metrics = SCORERS[scoring_of_task(task).scorer](example, prediction, frozenset(inks))
    output: dict[str, Any] = {"text": prediction.text, "transcript": prediction.transcript}
    if not prediction.is_finished:
        output["unfinished"] = True
    if prediction.scene is not None:
        output["scene"] = {**asdict(prediction.scene), "objects": list(prediction.scene.objects)}
    return Score(metrics, prediction.failure, {k: v for k, v in output.items() if v is not None})


def error_rates(hypothesis: str | None, reference: str) -> Metrics:
    """Return edits and reference length in words and characters; no hypothesis is all deletions."""
    found, wanted = normalize_text(hypothesis or ""), normalize_text(reference)
    by_word, by_character = word_errors(wanted, found), character_errors(wanted, found)
    return {
        "wer": (by_word.errors, by_word.length),
        "cer": (by_character.errors, by_character.length),
    }


def is_exact_match(text: str | None, reference: str) -> bool:
    """Tell whether two answers are equal after normalization."""
    return text is not None and normalize_answer(text) == normalize_answer(reference)


def is_answer_spoken(transcript: str | None, answer: str) -> bool:
    """Tell whether speech contains the answer, alone or inside a sentence of moderate length."""
    if transcript is None:
        return False
    longest = len(split_words(answer)) + _CARRIER_WORDS
    return len(split_words(transcript)) <= longest and contains_answer(transcript, answer)


def is_closest_choice(transcript: str | None, reference: str, choices: Iterable[str]) -> bool:
    """Tell whether the reference is the one of all possible answers closest to a transcript.

    Recognizers confuse short words ("it is gray" and "it is great"); choosing among the answers
    that a question can have removes such errors. Ties count as wrong.
    """
    found = normalize_text(transcript or "")
    if not found or not reference:
        return False
    distance = character_errors(normalize_text(reference), found).errors
    others = (c for c in choices if normalize_text(c) != normalize_text(reference))
    return all(character_errors(normalize_text(c), found).errors > distance for c in others)


def reference_answer(example: Example) -> str:
    """Return the bare answer if the sample states it, else the text of the reference."""
    answer = example.meta.get("answer")
    return str(answer) if answer is not None else example.reference.text or ""


def _score_transcript(example: Example, prediction: Prediction, _: frozenset[str]) -> Metrics:
    return _score_word_errors(prediction.text, example.reference.text or "", example)


def _score_speech(example: Example, prediction: Prediction, _: frozenset[str]) -> Metrics:
    return _score_word_errors(prediction.transcript, example.prompt.text or "", example)


def _score_word_errors(transcript: str | None, reference: str, example: Example) -> Metrics:
    closest = is_closest_choice(transcript, reference, example.choices)
    return {**error_rates(transcript, reference), **metrics_of_verdicts({"closest": closest})}


def _score_scene(example: Example, prediction: Prediction, _: frozenset[str]) -> Metrics:
    matches = scene_matches(prediction.scene, _scene_to_draw(example.meta))
    return metrics_of_verdicts(_drop_trivial_count(example, matches))


def _score_caption(example: Example, prediction: Prediction, inks: frozenset[str]) -> Metrics:
    reference, text = example.reference.text or "", prediction.text
    stated = None if text is None else parse_caption(text, inks=inks)
    exact = text is not None and normalize_text(text) == normalize_text(reference)
    has_scene = is_scene(example.sample)
    scene = parse_caption(reference, inks=inks) if has_scene else None
    matches = caption_matches(stated, scene) if scene is not None else {}
    return metrics_of_verdicts({**_drop_trivial_count(example, matches), "exact": exact})


def _score_text_answer(example: Example, prediction: Prediction, _: frozenset[str]) -> Metrics:
    references = (example.reference.text or "", reference_answer(example))
    exact = any(is_exact_match(prediction.text, r) for r in references)
    return metrics_of_verdicts({"exact": exact})


def _score_spoken_answer(example: Example, prediction: Prediction, inks: frozenset[str]) -> Metrics:
    transcript, text = prediction.transcript, example.reference.text or ""
    spoken = is_answer_spoken(transcript, reference_answer(example))
    closest = is_closest_choice(transcript, text, example.choices)
    return {
        **_score_text_answer(example, prediction, inks),
        **metrics_of_verdicts({"spoken": spoken, "spoken_closest": closest}),
        "wer": error_rates(transcript, example.transcript or text)["wer"],
    }


def _drop_trivial_count(example: Example, matches: dict[str, bool]) -> dict[str, bool]:
    """Drop the count where the example does not test counting: one object is easy to get right."""
    is_counting = example.meta.get("family") == "count"
    return {k: v for k, v in matches.items() if k != "count" or is_counting}


def _scene_to_draw(meta: dict[str, Any]) -> Scene:
    """Return what a drawing must show: the background only if the caption names it."""
    scene = scene_from_meta(meta)
    is_named = "caption" not in meta or "background" in str(meta["caption"])
    return scene if is_named else replace(scene, background=None)


SCORERS: dict[str, Callable[[Example, Prediction, frozenset[str]], Metrics]] = {
    "transcript": _score_transcript,
    "speech": _score_speech,
    "scene": _score_scene,
    "caption": _score_caption,
    "text_answer": _score_text_answer,
    "spoken_answer": _score_spoken_answer,
}
"""Scorers by the name in the table of tasks."""
