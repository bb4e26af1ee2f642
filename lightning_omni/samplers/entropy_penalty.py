"""The paper's sampler: lowest entropy first, with repetition and position penalties."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Scores
from lightning_omni.samplers.confidence import negative_entropy
from lightning_omni.samplers.noise import Noise
from lightning_omni.samplers.token_choice import check_choice_options, choose_token, truncate_logits


class EntropyPenalty(Sampler):
    """Commit the positions of lowest entropy.

    Args:
        temperature: sampling temperature; 0 takes the likeliest token.
        top_p: nucleus kept before scoring; 1 keeps all.
        top_k: tokens kept after the nucleus; None keeps all.
        repetition_penalty: divisor of positive logits, factor of negative ones, of tokens that the
            sample's response already holds; 1 is off.
        position_penalty: largest factor by which later positions are damped while many are masked,
            so that a long answer is not begun at both ends; 1 is off.
        free_positions: number of masked positions per sample that are never damped.

    Source: Omni-Diffusion, arXiv:2603.06577, section 3.4.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        repetition_penalty: float = 1.0,
        position_penalty: float = 1.0,
        free_positions: int = 100,
    ) -> None:
        check_choice_options(temperature, top_p=top_p, top_k=top_k)
        check_within("repetition_penalty", repetition_penalty, 0.01)
        check_within("position_penalty", position_penalty, 0.01)
        check_within("free_positions", free_positions, 0)
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k
        self.repetition_penalty = repetition_penalty
        self.position_penalty, self.free_positions = position_penalty, free_positions

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Penalise, then take the token and rank by negative entropy."""
        logits = truncate_logits(scores.logits, top_p=self.top_p, top_k=self.top_k)
        if self.repetition_penalty != 1:
            seen = _is_repeated(canvas, scores)
            logits = torch.where(seen, _penalize_logits(logits, self.repetition_penalty), logits)
        if self.position_penalty != 1:
            logits = _penalize_logits(logits, self._position_factor(scores)[:, None])
        log_p = logits.log_softmax(-1)
        column = choose_token(
            logits, temperature=self.temperature, noise=noise, positions=scores.positions
        )
        return scores.allowed[column], negative_entropy(log_p)

    def _position_factor(self, scores: Scores) -> Tensor:
        """Return factors from 1, for the first masked positions, up to the penalty at the last."""
        beyond = (scores.rank - self.free_positions).clamp(min=0)
        span = (scores.num_masked - self.free_positions).clamp(min=1)
        return 1 + beyond / span * (self.position_penalty - 1)


def _penalize_logits(logits: Tensor, factor: Tensor | float) -> Tensor:
    """Divide positive logits by the factor and multiply negative ones, so that all fall."""
    return torch.where(logits >= 0, logits / factor, logits * factor)


def _is_repeated(canvas: Canvas, scores: Scores) -> Tensor:
    """Return whether each column's id is already committed in the sample, Bool[M, G]."""
    committed = (canvas.block >= 0) & (canvas.ids != canvas.mask_token_id)
    num_samples = canvas.num_steps.shape[0]
    column = torch.full((int(scores.allowed.max().item()) + 1,), -1, device=canvas.ids.device)
    column[scores.allowed] = torch.arange(len(scores.allowed), device=canvas.ids.device)
    ids = canvas.ids[committed]
    inside = ids < len(column)
    found = column[ids[inside]]
    sample = canvas.sample[committed][inside]
    table = torch.zeros(num_samples, len(scores.allowed), dtype=torch.bool, device=ids.device)
    table[sample[found >= 0], found[found >= 0]] = True
    return table[canvas.sample[scores.positions]]
