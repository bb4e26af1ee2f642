"""Commit what is sure and has stopped changing its mind."""

from __future__ import annotations

from copy import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.errors import check_within
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Scores
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.growth import Grown
from lightning_omni.samplers.noise import Noise


class KLASS(Confidence):
    """Commit every position that is probable enough and whose distribution has settled.

    A position has settled if its distribution moved by less than a divergence in each of the last
    steps. Where none has, the schedule's number of the most probable is committed.

    Args:
        threshold: Probability of the likeliest token from which a position is sure.
        divergence: KL divergence between steps, in nats, below which it has settled.
        history: Steps in a row for which that must hold.
        temperature: 0 takes the likeliest tokens.

    Source: KLASS, arXiv:2511.05664.
    """

    before: dict[int, tuple[Tensor, Tensor]]
    """Places and distributions of the step before, by grammar row, in a run."""
    settled_for: Tensor
    """For how many steps each position has hardly moved, Int[T], in a run."""

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

    def begin(self, canvas: Canvas) -> Sampler:
        """A copy that has seen no step."""
        run = copy(self)
        run.before = {}
        run.settled_for = torch.zeros(len(canvas.ids), dtype=torch.long, device=canvas.ids.device)
        return run

    def after_growth(self, grown: Grown) -> Sampler:
        """What it remembers moves with the tokens; new masks have not settled."""
        self.before = {row: (grown.place(at), log_p) for row, (at, log_p) in self.before.items()}
        self.settled_for = grown.of(self.settled_for, new=0)
        return self

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Take the likeliest token; what is sure and has settled ranks above 1."""
        token, confidence = super().propose(canvas, scores, noise=noise)
        settled = self._settled(scores) >= self.history
        return token, confidence + (settled & (confidence >= self.threshold)).float()

    def num_sure(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """As many as are sure and have settled."""
        return sample[confidence > 1].bincount(minlength=num_samples)

    def _settled(self, scores: Scores) -> Tensor:
        """For how many steps in a row each position has hardly moved, Int[M]."""
        log_p = scores.logits.log_softmax(-1)
        settled = torch.zeros_like(scores.where)
        if scores.row in self.before:
            places, earlier = self.before[scores.row]
            index = torch.searchsorted(places, scores.where).clamp(max=len(places) - 1)
            moved = (log_p.exp() * (log_p - earlier[index])).sum(-1)
            is_still = (places[index] == scores.where) & (moved < self.divergence)
            settled = torch.where(is_still, self.settled_for[scores.where] + 1, 0)
        self.before[scores.row] = scores.where, log_p
        self.settled_for[scores.where] = settled
        return settled
