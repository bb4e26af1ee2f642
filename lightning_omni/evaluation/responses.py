"""Responses of a model to examples; an error costs the response that it occurs in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.examples import Example, Response, as_model_input
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.omni import Answer, Omni
from lightning_omni.types import Sample

log = logging.getLogger(__name__)
_ERRORS = (OmniError, RuntimeError, ValueError, LookupError, OSError, ArithmeticError)


@runtime_checkable
class ModelAdapter(Protocol):
    """A model to evaluate: encoded samples in, one response each out."""

    def answer(self, samples: Sequence[Sample], *, seed: int) -> Sequence[Response]:
        """Answer the user's turns; the assistant's turn names the modalities and has no content."""


class OmniAdapter:
    """Adapter of `Omni`; `records` collects the records of its answers.

    Args:
        omni: Model to evaluate.
        config: Generation options.
    """

    def __init__(self, omni: Omni, config: GenerationConfig) -> None:
        self.omni, self.config = omni, config
        self.records: list[dict[str, Any]] = []

    def answer(self, samples: Sequence[Sample], *, seed: int) -> list[Response]:
        """Answer a batch."""
        answers = self.omni.answer(list(samples), seed=seed, config=self.config)
        self.records += [answer.record for answer in answers]
        return [to_response(answer) for answer in answers]


def to_response(answer: Answer) -> Response:
    """Convert an answer of `Omni`."""
    parts = answer.record.get("parts", {}).values()
    is_finished = all(part["ended"] for part in parts)
    return Response(
        answer.text, answer.image, answer.speech, answer.sample_rate, is_finished=is_finished
    )


def generate_responses(
    model: ModelAdapter,
    examples: Sequence[Example],
    *,
    batch_size: int,
    seed: int,
    name: str,
) -> list[Response]:
    """Return one response per example; an error becomes a response with its message.

    The samples of a batch that fails are answered one by one, so that a bad sample costs one
    response. Lack of memory is raised, since it says nothing about a sample.

    Args:
        model: Model to evaluate.
        examples: Examples to answer.
        batch_size: Examples per batch.
        seed: Seed of generation.
        name: Task and split, for messages.

    Raises:
        OmniError: If every response failed.
    """
    inputs = [as_model_input(example.sample) for example in examples]
    responses: list[Response] = []
    for start in range(0, len(inputs), batch_size):
        batch, first_seed = inputs[start : start + batch_size], seed + start
        try:
            responses += _answer_batch(model, batch, seed=first_seed)
        except torch.OutOfMemoryError:
            raise
        except _ERRORS:
            log.exception("a batch of %d failed; its samples are answered one by one", len(batch))
            responses += [_answer_one(model, s, seed=first_seed + i) for i, s in enumerate(batch)]
    errors = [response.error for response in responses if response.error]
    if len(errors) == len(responses):
        raise OmniError(f"every answer to {name} failed, the first with: {errors[0]}")
    return responses


def _answer_batch(model: ModelAdapter, batch: Sequence[Sample], *, seed: int) -> list[Response]:
    responses = list(model.answer(batch, seed=seed))
    if len(responses) != len(batch):
        raise OmniError(f"{len(batch)} samples but {len(responses)} responses")
    return responses


def _answer_one(model: ModelAdapter, sample: Sample, *, seed: int) -> Response:
    try:
        return _answer_batch(model, [sample], seed=seed)[0]
    except torch.OutOfMemoryError:
        raise
    except _ERRORS as error:
        return Response(error=f"{type(error).__name__}: {error}")
