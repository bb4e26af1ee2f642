"""KLASS: commit positions whose distribution is confident and stable."""

from __future__ import annotations

from copy import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Scores
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.noise import Noise


class KLASS(Confidence):
    """Commit every position that is confident enough and whose distribution is stable.

    A position is stable if its distribution moved by less than a divergence in each of the last
    steps. Where none is, the schedule's number of the most probable is committed.

    Args:
        threshold: probability of the likeliest token from which a position is confident.
        divergence: KL divergence between steps, in nats, below which it is stable.
        history: number of steps in a row for which that must hold.
        temperature: sampling temperature; 0 takes the likeliest tokens.

    Source: KLASS, arXiv:2511.05664.
    """

    before: dict[int, tuple[Tensor, Tensor]]
    """Positions and log-probabilities of the step before, by set of allowed ids."""
    stable_for: Tensor
    """Number of steps for which each position has been stable, Int[T]."""

    def __init__(
        self,
        threshold: float = 0.9,
        divergence: float = 0.01,
        history: int = 1,
        temperature: float = 0.0,
    ) -> None:
        check_within("threshold", threshold, 0, 1)
        check_within("divergence", divergence, 0)
        check_within("history", history, 1)
        super().__init__(temperature)
        self.threshold, self.divergence, self.history = threshold, divergence, history

    def with_fresh_state(self, canvas: Canvas) -> Sampler:
        """Return a copy that has seen no step."""
        run = copy(self)
        run.before = {}
        run.stable_for = torch.zeros(len(canvas.ids), dtype=torch.long, device=canvas.ids.device)
        return run

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Take the likeliest token; confident and stable positions rank above 1."""
        token, confidence = super().propose(canvas, scores, noise=noise)
        stable = self._count_stable_steps(scores) >= self.history
        return token, confidence + (stable & (confidence >= self.threshold)).float()

    def num_confident(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """Count the positions that are confident and stable."""
        return sample[confidence > 1].bincount(minlength=num_samples)

    def _count_stable_steps(self, scores: Scores) -> Tensor:
        """Return for how many steps in a row each position has been stable, Int[M]."""
        log_p = scores.logits.log_softmax(-1)
        stable = torch.zeros_like(scores.positions)
        if scores.allowed_set in self.before:
            positions, earlier = self.before[scores.allowed_set]
            index = torch.searchsorted(positions, scores.positions).clamp(max=len(positions) - 1)
            moved = (log_p.exp() * (log_p - earlier[index])).sum(-1)
            is_still = (positions[index] == scores.positions) & (moved < self.divergence)
            stable = torch.where(is_still, self.stable_for[scores.positions] + 1, 0)
        self.before[scores.allowed_set] = scores.positions, log_p
        self.stable_for[scores.positions] = stable
        return stable
