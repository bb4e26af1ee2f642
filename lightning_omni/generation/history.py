"""The history of a generated answer part: the tokens and confidences of every step."""

from __future__ import annotations

import math
from typing import TypedDict

from lightning_omni.samplers.canvas import Canvas
from lightning_omni.samplers.loop import StepEvent


class TokenChange(TypedDict):
    """One token of one step.

    Attributes:
        step: step of its own sample, as it would be counted if the sample were alone.
        position: position from the response's start.
        token: token id; None where the position was masked again.
        confidence: confidence that the sampler ranked by; None where masked again.
    """

    step: int
    position: int
    token: int | None
    confidence: float | None


class History:
    """Collect the changes of every step of a run, whatever the sampler.

    Args:
        canvas: the canvas of the run.
    """

    def __init__(self, canvas: Canvas) -> None:
        self.mask_token_id, self.sample = canvas.mask_token_id, canvas.sample
        self.changes: list[tuple[int, int, int, float]] = []

    def add_step(self, event: StepEvent) -> None:
        """Record a step."""
        steps = event.steps[self.sample[event.positions]]
        tokens = event.ids[event.positions]
        columns = (steps, event.positions, tokens, event.confidence)
        self.changes += zip(*(values.tolist() for values in columns), strict=True)

    def changes_within(self, span: slice) -> list[TokenChange]:
        """Return the changes within a span of the canvas, in the order of the steps."""
        return [
            TokenChange(
                step=step,
                position=position - span.start,
                token=None if token == self.mask_token_id else token,
                confidence=None if math.isnan(confidence) else confidence,
            )
            for step, position, token, confidence in self.changes
            if span.start <= position < span.stop
        ]
