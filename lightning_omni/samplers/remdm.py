"""ReMDM: ancestral sampling with remasking of committed positions."""

from __future__ import annotations

from copy import copy
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.argument_checks import check_within
from lightning_omni.errors import OmniError
from lightning_omni.samplers.ancestral import Ancestral
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Scores, StepTimes
from lightning_omni.samplers.noise import Noise, NoisePurpose


class ReMDM(Ancestral):
    """Ancestral steps after which a share sigma of the committed positions is masked again.

    With alpha = 1 - t the share of positions kept, a step from t to s masks a committed position
    with probability sigma and commits a mask with (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),
    so at every time as many are masked as without remasking. More steps are then worth more.

    Args:
        eta: strength of remasking; 0 is ancestral sampling.
        strategy: `cap` takes sigma = min(eta, sigma_max), `rescale` eta sigma_max, where
            sigma_max = min(1, (1 - alpha_s) / alpha_t); `confidence` shares eta sigma_max out
            among a sample's positions by the softmax of minus the probability that each had when
            committed, and commits as many masks more, so that their number is kept in the mean.
        start: time at which remasking begins; times run from 1 down to 0.
        stop: time at which it ends.
        temperature: sampling temperature of the tokens.

    Source: ReMDM, arXiv:2503.00307, sections 3 and 4.
    """

    remasks = True
    probability: Tensor
    """Probability of each token when it was last proposed, NaN before that, Float[T]."""
    has_committed: Tensor
    """Whether a sample has positions that may be masked again, Bool[S]."""

    def __init__(
        self,
        eta: float = 0.02,
        strategy: Literal["cap", "rescale", "confidence"] = "cap",
        start: float = 1.0,
        stop: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        check_within("eta", eta, 0, 1)
        if not 0 <= stop < start <= 1:
            raise OmniError(
                f"remasking lasts from {start} to {stop}, wanted 1 >= start > stop >= 0"
            )
        super().__init__(temperature)
        self.eta, self.strategy, self.start, self.stop = eta, strategy, start, stop

    def with_fresh_state(self, canvas: Canvas) -> Sampler:
        """Return a copy that stores the probability of each committed token."""
        run = copy(self)
        run.probability = torch.full(canvas.ids.shape, torch.nan, device=canvas.ids.device)
        return run

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Draw tokens, and an order independent of them."""
        token, order = super().propose(canvas, scores, noise=noise)
        column = torch.searchsorted(scores.allowed, token)
        is_committed = canvas.block == canvas.block[scores.positions[:1]]
        is_committed &= ~self.probability.isnan() & (canvas.ids != canvas.mask_token_id)
        count = torch.zeros_like(canvas.num_steps)
        count.scatter_add_(0, canvas.sample, is_committed.to(count.dtype))
        self.has_committed = count > 0
        probability = scores.logits.softmax(-1).gather(-1, column[:, None]).squeeze(-1)
        self.probability[scores.positions] = probability
        return token, order

    def num_transfer_tokens(
        self, times: StepTimes, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"]
    ) -> Int[Tensor, " S"]:
        """Draw each position independently (a binomial number); at the last step take all."""
        kept_t, kept_s = 1 - times.t, 1 - times.s
        sigma = 0.0 if self.strategy == "confidence" else self._remask_probability(times)
        share = (kept_s - (1 - sigma) * kept_t) / times.t
        if self.strategy == "confidence":
            has_committed = self.has_committed.to(times.t.device)
            share += self._num_remasked(times) * has_committed / times.num_masked.clamp_min(1)
        is_taken = confidence >= 1 - share[sample]
        return sample[is_taken | (times.s == 0)[sample]].bincount(minlength=len(times.t))

    def remask(
        self, canvas: Canvas, times: StepTimes, positions: Int[Tensor, " K"], *, noise: Noise
    ) -> Bool[Tensor, " K"]:
        """Draw each committed position independently."""
        sample = canvas.sample[positions]
        share = self._remask_probability(times)[sample]
        if self.strategy == "confidence":
            share = self._num_remasked(times)[sample]
            weight = (-self.probability.to(positions.device)[positions]).exp()
            total = torch.zeros_like(times.t).index_add_(0, sample, weight)
            share = share * weight / total[sample]
        return noise.uniform(positions, NoisePurpose.REMASK) < share

    def _num_remasked(self, times: StepTimes) -> Tensor:
        """Return the mean number of remasked positions, bounded by what new commits make up."""
        return torch.minimum(self._remask_probability(times), times.num_masked * times.s / times.t)

    def _remask_probability(self, times: StepTimes) -> Tensor:
        """Return the probability that a committed position is masked again, Float[S]."""
        most = (times.s / (1 - times.t).clamp_min(1e-9)).clamp(max=1)
        sigma = most.clamp(max=self.eta) if self.strategy == "cap" else self.eta * most
        is_on = (times.t <= self.start) & (times.s >= self.stop)
        return torch.where(is_on, sigma, 0.0)
