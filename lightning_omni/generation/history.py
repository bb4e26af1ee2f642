"""What happened at each step of a hole, for looking at it later."""

from __future__ import annotations

import math
from typing import TypedDict

import torch

from lightning_omni.samplers.canvas import Canvas
from lightning_omni.samplers.growth import Grown
from lightning_omni.samplers.loop import StepEvent


class Change(TypedDict):
    """One token of one step.

    `step` counts the steps of its own sample, as it would take them alone; `position` counts from
    the hole's start, as the hole is in the end; `token` is None where a
    token was masked again; `confidence` is what the sampler ranks by, None for tokens that were
    revised or masked again.
    """

    step: int
    position: int
    token: int | None
    confidence: float | None


class Trace:
    """Collects the changes of every step of a run, whatever the sampler.

    Args:
        canvas: Before the run.
    """

    def __init__(self, canvas: Canvas) -> None:
        self.mask_token_id, self.sample = canvas.mask_token_id, canvas.sample
        self.changes: list[tuple[int, int, int, float]] = []

    def add(self, event: StepEvent) -> None:
        """Take note of a step."""
        if event.grown is not None:
            self._move(event.grown)
            self.sample = event.grown.canvas.sample
        steps, tokens = event.steps[self.sample[event.where]], event.ids[event.where]
        told = (steps, event.where, tokens, event.confidence)
        self.changes += zip(*(values.tolist() for values in told), strict=True)

    def _move(self, grown: Grown) -> None:
        """Places of earlier steps on the canvas that grew."""
        if self.changes:
            number, where, token, sure = zip(*self.changes, strict=True)
            places = grown.place(torch.tensor(where, device=grown.source.device)).tolist()
            self.changes = list(zip(number, places, token, sure, strict=True))

    def of(self, span: slice) -> list[Change]:
        """The changes within a span of the canvas, in the order they happened."""
        return [
            Change(
                step=step,
                position=place - span.start,
                token=None if token == self.mask_token_id else token,
                confidence=None if math.isnan(sure) else sure,
            )
            for step, place, token, sure in self.changes
            if span.start <= place < span.stop
        ]


def replay(
    trace: list[Change], ids: list[int], *, mask_token_id: int, num_steps: int | None = None
) -> list[int]:
    """Ids of a hole after its first `num_steps` steps, or after all.

    Args:
        trace: From a record.
        ids: The hole before the first step: masks, and what was given.
        mask_token_id: Written where a token was masked again.
        num_steps: How far to go.
    """
    out = list(ids)
    for change in trace:
        if num_steps is None or change["step"] <= num_steps:
            token = change["token"]
            out[change["position"]] = mask_token_id if token is None else token
    return out
