"""One task's cases, answered in one way and judged."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.answerers import answer_all
from lightning_omni.evaluation.examples import Case
from lightning_omni.evaluation.outcome import Outcome
from lightning_omni.evaluation.run import OmniAnswerer
from lightning_omni.evaluation.suite import Plan, Suite, require_answers
from lightning_omni.generation.config import Sampling
from lightning_omni.generation.omni import Omni


@dataclass(frozen=True, slots=True)
class Answered:
    """What the answers earned, one outcome a case, and what an answer cost on average."""

    outcomes: list[Outcome]
    forwards: float
    seconds: float


def cases_of(suite: Suite, plan: Plan, task: str) -> list[Case]:
    """Cases of a task in the plan's one split.

    Raises:
        OmniError: If there are none.
    """
    (split,) = plan.splits
    cases, _ = suite.cases(task, split, plan)
    if not cases:
        raise OmniError(
            f"task '{task}' has no samples in '{split}'; leave it out or choose another split"
        )
    return cases


@torch.inference_mode()
def ask(
    omni: Omni, suite: Suite, plan: Plan, task: str, cases: Sequence[Case], way: Sampling
) -> Answered:
    """Answer the cases of a task in one way of sampling, and judge.

    Raises:
        OmniError: If every answer failed.
    """
    answerer = OmniAnswerer(omni, way)
    replies = answer_all(answerer, cases, batch_size=plan.batch_size, seed=plan.seed)
    require_answers(task, ", ".join(plan.splits), replies)
    return Answered(
        suite.judge(task, cases, replies),
        statistics.fmean(r["forwards"] for r in answerer.records),
        statistics.fmean(r["seconds"] for r in answerer.records),
    )
