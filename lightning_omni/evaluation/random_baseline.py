"""Random baseline: predictions that ignore the prompt, scored like those of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from lightning_omni.evaluation.emojiworld.metadata import question_kind
from lightning_omni.evaluation.examples import Example, first_part
from lightning_omni.evaluation.predictions import Prediction
from lightning_omni.evaluation.text_normalization import normalize_answer
from lightning_omni.tasks import scoring_of_task
from lightning_omni.types import Sample

_DRAWS = 10


def baseline_rule(task: str) -> str:
    """Return in words how a task's random baseline is made."""
    scoring = scoring_of_task(task)
    if scoring.baseline == "most_common_answer":
        return scoring.baseline_source
    return (
        f"{scoring.baseline_source}: references of the same examples, shuffled so that none stays; "
        f"mean of {_DRAWS} shuffles"
    )


def majority_answers(pool: Sequence[Sample]) -> dict[str, str]:
    """Return the most common answer per kind of question; ties go to the first in the alphabet."""
    counts: dict[str, Counter[str]] = {}
    for sample in pool:
        part = first_part(sample, "assistant", "text")
        answer = str(sample.meta.get("answer") or (part.text if part else None) or "")
        counts.setdefault(question_kind(sample), Counter())[normalize_answer(answer)] += 1
    return {k: min(c, key=lambda a: (-c[a], a)) for k, c in counts.items()}


def random_baseline_predictions(
    task: str,
    examples: Sequence[Example],
    *,
    pool: Sequence[Sample],
    references: Sequence[Prediction],
    seed: int,
) -> list[list[Prediction]]:
    """Return predictions of the random baseline, from several draws where it is random.

    Args:
        task: Name of the task.
        examples: Examples to predict.
        pool: All samples of the split, from which the majority answers are counted.
        references: Predictions parsed from the references, to be shuffled.
        seed: Seed of the shuffles.

    Returns:
        One list of predictions per draw; empty where there are too few examples to shuffle.
    """
    baseline = scoring_of_task(task).baseline
    if baseline == "most_common_answer":
        answers = majority_answers(pool)
        texts = [answers[question_kind(example.sample)] for example in examples]
        return [[Prediction(text=t, transcript=t) for t in texts]]
    if baseline == "shuffled_text":
        references = [Prediction(text=example.reference.text) for example in examples]
    if len(examples) < 2:
        return []
    rng = Random(f"{seed}/chance/{task}")  # the word is part of the seed of published numbers
    return [[references[i] for i in derangement(len(examples), rng)] for _ in range(_DRAWS)]


def derangement(size: int, rng: Random) -> list[int]:
    """Return a random permutation of 0..size-1 without fixed points: one cycle through all."""
    order = list(range(size))
    rng.shuffle(order)
    permutation = [0] * size
    for source, target in zip(order, order[1:] + order[:1], strict=True):
        permutation[source] = target
    return permutation
