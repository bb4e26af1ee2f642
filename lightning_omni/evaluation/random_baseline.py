"""What guessing earns: answers that ignore the question, scored by the same judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from lightning_omni.evaluation.examples import Case, kind_of_question, part_of
from lightning_omni.evaluation.normalize import normalize_answer
from lightning_omni.evaluation.predictions import Reading
from lightning_omni.types import Sample

QUESTION_TASKS = ("vqa", "svqa", "sqa", "tqa")
_DRAWS = 10
_SHUFFLED = (
    f"true answers of the same cases, shuffled so that none stays; mean of {_DRAWS} shuffles"
)
RULES = {
    "asr": f"transcripts: {_SHUFFLED}",
    "tts": f"real recordings as the recognizer hears them: {_SHUFFLED}",
    "t2i": f"real images as the oracle sees them: {_SHUFFLED}",
    "s2i": f"real images as the oracle sees them: {_SHUFFLED}",
    "caption": f"captions: {_SHUFFLED}",
    "question": "the most common answer of the split to the same kind of question",
}


def rule_for(task: str) -> str:
    """Say how a task's chance level was found."""
    return RULES["question"] if task in QUESTION_TASKS else RULES[task]


def majority_answers(pool: Sequence[Sample]) -> dict[str, str]:
    """Most common answer per kind of question; ties go to the first in the alphabet."""
    counts: dict[str, Counter[str]] = {}
    for sample in pool:
        part = part_of(sample, "assistant", "text")
        answer = str(sample.meta.get("answer") or (part.text if part else None) or "")
        counts.setdefault(kind_of_question(sample), Counter())[normalize_answer(answer)] += 1
    return {k: min(c, key=lambda a: (-c[a], a)) for k, c in counts.items()}


def chance_readings(
    task: str,
    cases: Sequence[Case],
    *,
    pool: Sequence[Sample],
    references: Sequence[Reading],
    seed: int,
) -> list[list[Reading]]:
    """Guess every case, several times over where the guess is random.

    Args:
        task: Which task the cases are of.
        cases: The cases to guess.
        pool: All samples of the split, for the majority answer.
        references: Readings of the true answers, to be shuffled.
        seed: Of the shuffles.

    Returns:
        One list of readings per draw; none where there are too few cases to shuffle.
    """
    if task in QUESTION_TASKS:
        answers = majority_answers(pool)
        said = [answers[kind_of_question(case.sample)] for case in cases]
        return [[Reading(text=s, transcript=s) for s in said]]
    if task in ("asr", "caption"):
        references = [Reading(text=case.wanted.text) for case in cases]
    if len(cases) < 2:
        return []
    rng = Random(f"{seed}/chance/{task}")
    return [[references[i] for i in derangement(len(cases), rng)] for _ in range(_DRAWS)]


def derangement(size: int, rng: Random) -> list[int]:
    """Shuffle 0..size-1 so that nothing stays in place: one random cycle through all."""
    order = list(range(size))
    rng.shuffle(order)
    places = [0] * size
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        places[here] = there
    return places
