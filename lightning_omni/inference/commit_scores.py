"""How likely each token was when it was committed, whatever the sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_omni.samplers.canvas import Denoiser, LogitsAt
from lightning_omni.samplers.fill import StepEvent


class CommitScores:
    """A denoiser that remembers the log-probabilities it gave to the tokens that were taken.

    Args:
        denoise: The denoiser, with its guidance if there is any.
    """

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise = denoise
        self.step: list[tuple[Tensor, Tensor, Tensor]] = []
        self.log_prob: dict[int, float] = {}

    def __call__(self, ids: Tensor) -> LogitsAt:
        """Do what the denoiser does."""
        logits_at = self.denoise(ids)
        self.step = []

        def remembered(where: Tensor, allowed: Tensor) -> Tensor:
            logits = logits_at(where, allowed)
            self.step.append((where, allowed, logits.float().log_softmax(-1)))
            return logits

        return remembered

    def add(self, event: StepEvent) -> None:
        """Take note of what a step committed."""
        for where, allowed, log_p in self.step:
            row = torch.isin(where, event.where).nonzero().squeeze(1)
            token = event.ids[where[row]]
            column = torch.searchsorted(allowed, token).clamp(max=len(allowed) - 1)
            is_kept = allowed[column] == token
            row, column = row[is_kept], column[is_kept]
            values = log_p[row, column].tolist()
            self.log_prob.update(zip(where[row].tolist(), values, strict=True))

    def mean(self, span: slice) -> float:
        """Mean over the tokens of a span that were filled, in nats."""
        values = [v for place, v in self.log_prob.items() if span.start <= place < span.stop]
        return sum(values) / len(values)
