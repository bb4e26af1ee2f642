"""Who answers the test, and how a failing answer is kept apart from its batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.examples import Case, Reply, without_answer
from lightning_omni.types import Role, Sample

log = logging.getLogger(__name__)
_ANSWER_ERRORS = (OmniError, RuntimeError, ValueError, LookupError, OSError, ArithmeticError)


@runtime_checkable
class Answerer(Protocol):
    """Anything that answers encoded samples, one reply each."""

    def answer(self, samples: Sequence[Sample], *, seed: int) -> Sequence[Reply]:
        """Answer the user's turn; the assistant's names the modalities wanted and holds nothing."""


@runtime_checkable
class Reconstructor(Protocol):
    """Anything that turns the codes of a sample back into media."""

    def decode(self, sample: Sample, role: Role) -> Reply:
        """Decode what one side says."""


def answer_all(
    answerer: Answerer, cases: Sequence[Case], *, batch_size: int, seed: int
) -> list[Reply]:
    """Collect one reply per case; a case that raises gets a reply that says so.

    A failing batch is asked again one by one, so that one bad sample costs one answer. Running
    out of memory is not an answer and is raised.
    """
    questions = [without_answer(case.sample) for case in cases]
    replies: list[Reply] = []
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        try:
            replies.extend(_checked(answerer, batch, seed=seed + start))
        except torch.OutOfMemoryError:
            raise
        except _ANSWER_ERRORS:
            log.exception("a batch of %d failed; asking one by one", len(batch))
            replies.extend(_single(answerer, q, seed=seed + start + i) for i, q in enumerate(batch))
    return replies


def _single(answerer: Answerer, question: Sample, *, seed: int) -> Reply:
    try:
        return _checked(answerer, [question], seed=seed)[0]
    except torch.OutOfMemoryError:
        raise
    except _ANSWER_ERRORS as error:
        return Reply(error=f"{type(error).__name__}: {error}")


def _checked(answerer: Answerer, batch: Sequence[Sample], *, seed: int) -> list[Reply]:
    replies = list(answerer.answer(batch, seed=seed))
    if len(replies) != len(batch):
        raise OmniError(f"asked {len(batch)} samples but got {len(replies)} answers")
    return replies
