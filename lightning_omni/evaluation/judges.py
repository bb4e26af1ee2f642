"""One judge per task: what a reading earns against the truth. A failed reading earns nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from lightning_omni.evaluation.caption import Scene, compare, parse_caption
from lightning_omni.evaluation.cases import Case
from lightning_omni.evaluation.normalize import normalize, normalize_answer, says, words
from lightning_omni.evaluation.oracle_training import judge_scene, truth_of
from lightning_omni.evaluation.outcome import Outcome, proportions
from lightning_omni.evaluation.reading import Reading

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
    said, wanted = words(hypothesis or ""), words(reference)
    return {
        "wer": (edits(wanted, said), len(wanted)),
        "cer": (edits(" ".join(wanted), " ".join(said)), len(" ".join(wanted))),
    }


def edits(reference: list[str] | str, hypothesis: list[str] | str) -> int:
    """Levenshtein distance: substitutions, deletions and insertions."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, said in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != said))
    return row[-1]


def is_exact(text: str | None, wanted: str) -> bool:
    """Compare answers after normalization."""
    return text is not None and normalize_answer(text) == normalize_answer(wanted)


def is_spoken(transcript: str | None, answer: str) -> bool:
    """Tell whether speech gives the answer, alone or inside a sentence of moderate length."""
    if transcript is None:
        return False
    room = len(words(answer)) + _CARRIER_WORDS
    return len(words(transcript)) <= room and says(transcript, answer)


def true_answer(case: Case) -> str:
    """The bare answer if the sample states it, else the text of the answer."""
    answer = case.meta.get("answer")
    return str(answer) if answer is not None else case.wanted.text or ""


def _judge_asr(case: Case, reading: Reading, _: frozenset[str]) -> Metrics:
    return error_rates(reading.text, case.wanted.text or "")


def _judge_tts(case: Case, reading: Reading, _: frozenset[str]) -> Metrics:
    return error_rates(reading.transcript, case.asked.text or "")


def _judge_image(case: Case, reading: Reading, _: frozenset[str]) -> Metrics:
    return proportions(judge_scene(reading.scene, _asked_scene(case.meta)))


def _judge_caption(case: Case, reading: Reading, inks: frozenset[str]) -> Metrics:
    wanted = case.wanted.text or ""
    stated = None if reading.text is None else parse_caption(reading.text, inks=inks)
    exact = reading.text is not None and normalize(reading.text) == normalize(wanted)
    scene = parse_caption(wanted, inks=inks) if case.meta.get("set") == "scene" else None
    verdict = compare(stated, scene) if scene is not None else {}
    return proportions({**verdict, "exact": exact})


def _judge_text_answer(case: Case, reading: Reading, _: frozenset[str]) -> Metrics:
    wanted = (case.wanted.text or "", true_answer(case))
    return proportions({"exact": any(is_exact(reading.text, w) for w in wanted)})


def _judge_spoken_answer(case: Case, reading: Reading, inks: frozenset[str]) -> Metrics:
    spoken = is_spoken(reading.transcript, true_answer(case))
    rates = error_rates(reading.transcript, case.said or case.wanted.text or "")
    return {
        **_judge_text_answer(case, reading, inks),
        **proportions({"spoken": spoken}),
        "wer": rates["wer"],
    }


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
