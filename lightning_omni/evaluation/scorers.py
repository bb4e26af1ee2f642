"""One judge per task: what a reading earns against the truth. A failed reading earns nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from lightning_omni.evaluation.emojiworld.captions import Scene, compare, parse_caption
from lightning_omni.evaluation.emojiworld.train_classifier import judge_scene, truth_of
from lightning_omni.evaluation.examples import Case
from lightning_omni.evaluation.normalize import normalize, normalize_answer, says, words
from lightning_omni.evaluation.outcome import Outcome, proportions
from lightning_omni.evaluation.predictions import Reading
from lightning_omni.metrics.wer import character_errors, word_errors

Metrics = dict[str, tuple[float, float]]
PRIMARY = {
    "asr": "wer",
    "tts": "wer",
    "t2i": "attributes",
    "s2i": "attributes",
    "caption": "attributes",
    "vqa": "exact",
    "svqa": "spoken",
    "sqa": "spoken",
    "tqa": "exact",
}
_CARRIER_WORDS = 8  # a spoken answer may be a sentence, but not a list of everything


def judge(task: str, case: Case, reading: Reading, *, inks: Iterable[str]) -> Outcome:
    """Score one reading."""
    metrics = _JUDGES[task](case, reading, frozenset(inks))
    output: dict[str, Any] = {"text": reading.text, "transcript": reading.transcript}
    if not reading.is_finished:
        output["unfinished"] = True
    if reading.scene is not None:
        scene = reading.scene
        output["scene"] = {
            "objects": list(scene.objects),
            "ink": scene.ink,
            "background": scene.background,
            "count": scene.count,
            "relation": scene.relation,
        }
    return Outcome(metrics, reading.failure, {k: v for k, v in output.items() if v is not None})


def error_rates(hypothesis: str | None, reference: str) -> Metrics:
    """Edits over reference length, in words and in characters; silence is all deletions."""
    said, wanted = normalize(hypothesis or ""), normalize(reference)
    by_word, by_character = word_errors(wanted, said), character_errors(wanted, said)
    return {
        "wer": (by_word.errors, by_word.length),
        "cer": (by_character.errors, by_character.length),
    }


def is_exact(text: str | None, wanted: str) -> bool:
    """Compare answers after normalization."""
    return text is not None and normalize_answer(text) == normalize_answer(wanted)


def is_spoken(transcript: str | None, answer: str) -> bool:
    """Tell whether speech gives the answer, alone or inside a sentence of moderate length."""
    if transcript is None:
        return False
    room = len(words(answer)) + _CARRIER_WORDS
    return len(words(transcript)) <= room and says(transcript, answer)


def is_closest(transcript: str | None, wanted: str, choices: Iterable[str]) -> bool:
    """Tell whether no other possible answer sounds more like what was heard.

    Recognizers mishear short words ("it is gray" as "it is great"); a choice among the answers
    that the question can have forgives that, as a listener would. Ties count as wrong.
    """
    heard = normalize(transcript or "")
    if not heard or not wanted:
        return False
    distance = character_errors(normalize(wanted), heard).errors
    others = (c for c in choices if normalize(c) != normalize(wanted))
    return all(character_errors(normalize(c), heard).errors > distance for c in others)


def true_answer(case: Case) -> str:
    """The bare answer if the sample states it, else the text of the answer."""
    answer = case.meta.get("answer")
    return str(answer) if answer is not None else case.wanted.text or ""


def _judge_asr(case: Case, reading: Reading, _: frozenset[str]) -> Metrics:
    return _judge_words(reading.text, case.wanted.text or "", case)


def _judge_tts(case: Case, reading: Reading, _: frozenset[str]) -> Metrics:
    return _judge_words(reading.transcript, case.asked.text or "", case)


def _judge_words(heard: str | None, wanted: str, case: Case) -> Metrics:
    """Error rates, and whether the sentence can be told from the split's others."""
    closest = is_closest(heard, wanted, case.choices)
    return {**error_rates(heard, wanted), **proportions({"closest": closest})}


def _judge_image(case: Case, reading: Reading, _: frozenset[str]) -> Metrics:
    return proportions(_countable(case, judge_scene(reading.scene, _asked_scene(case.meta))))


def _judge_caption(case: Case, reading: Reading, inks: frozenset[str]) -> Metrics:
    wanted = case.wanted.text or ""
    stated = None if reading.text is None else parse_caption(reading.text, inks=inks)
    exact = reading.text is not None and normalize(reading.text) == normalize(wanted)
    scene = parse_caption(wanted, inks=inks) if case.meta.get("set") == "scene" else None
    verdict = compare(stated, scene) if scene is not None else {}
    return proportions({**_countable(case, verdict), "exact": exact})


def _judge_text_answer(case: Case, reading: Reading, _: frozenset[str]) -> Metrics:
    wanted = (case.wanted.text or "", true_answer(case))
    return proportions({"exact": any(is_exact(reading.text, w) for w in wanted)})


def _judge_spoken_answer(case: Case, reading: Reading, inks: frozenset[str]) -> Metrics:
    spoken = is_spoken(reading.transcript, true_answer(case))
    closest = is_closest(reading.transcript, case.wanted.text or "", case.choices)
    rates = error_rates(reading.transcript, case.said or case.wanted.text or "")
    return {
        **_judge_text_answer(case, reading, inks),
        **proportions({"spoken": spoken, "spoken_closest": closest}),
        "wer": rates["wer"],
    }


def _countable(case: Case, verdict: dict[str, bool]) -> dict[str, bool]:
    """Report counts where counting was asked; elsewhere one is always right."""
    is_asked = case.meta.get("family") == "count"
    return {k: v for k, v in verdict.items() if k != "count" or is_asked}


def _asked_scene(meta: dict[str, Any]) -> Scene:
    """What a drawing must show: a background that the caption does not name is free."""
    truth = truth_of(meta)
    is_named = "caption" not in meta or "background" in str(meta["caption"])
    return truth if is_named else replace(truth, background=None)


_JUDGES: dict[str, Callable[[Case, Reading, frozenset[str]], Metrics]] = {
    "asr": _judge_asr,
    "tts": _judge_tts,
    "t2i": _judge_image,
    "s2i": _judge_image,
    "caption": _judge_caption,
    "vqa": _judge_text_answer,
    "tqa": _judge_text_answer,
    "svqa": _judge_spoken_answer,
    "sqa": _judge_spoken_answer,
}
