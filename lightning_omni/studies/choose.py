"""Which of several measured ways of sampling a quality stands for."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_omni.generation.defaults import Quality

SLACK: dict[Quality, float] = {"fast": 2.0, "balanced": 1.0, "best": 0.0}
"""How many standard errors below the best way a quality may lie."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way on one task.

    Attributes:
        way: Its name.
        forwards: Forward passes per answer.
        loss: How much worse it is than the best way on the same cases; 0 for the best.
        error: Standard error of that difference.
    """

    way: str
    forwards: float
    loss: float
    error: float


def choose(candidates: list[Candidate]) -> dict[Quality, str]:
    """The cheapest way whose loss is within each quality's slack.

    The loss is a paired difference, so ways that fail on other cases than the best have an error
    of their own; a way with no loss at all is as good as the best.

    Args:
        candidates: Every way, against the best of them.
    """
    return {
        quality: min(
            (m for m in candidates if m.loss <= slack * m.error or m.loss <= 0),
            key=lambda m: m.forwards,
        ).way
        for quality, slack in SLACK.items()
    }


def by_quality(choices: dict[str, dict[Quality, str]]) -> dict[Quality, dict[str, str]]:
    """The names of ways by quality and task."""
    return {
        quality: {task: chosen[quality] for task, chosen in choices.items()} for quality in SLACK
    }
