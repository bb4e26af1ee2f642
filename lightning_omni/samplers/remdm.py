"""The reverse process that may change its mind: committed positions are masked again."""

from __future__ import annotations

from copy import copy
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.errors import OmniError, check_within
from lightning_omni.samplers.ancestral import Ancestral
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Moment, Scores
from lightning_omni.samplers.growth import Grown
from lightning_omni.samplers.noise import Noise, Use


class ReMDM(Ancestral):
    """Ancestral steps after which a share sigma of the committed positions is masked again.

    With alpha = 1 - t the share of positions kept, a step from t to s masks a committed position
    with probability sigma and commits a mask with (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),
    so at every time as many are masked as without remasking. More steps are then worth more.

    Args:
        eta: How much is masked again; 0 is ancestral sampling.
        strategy: `cap` takes sigma = min(eta, sigma_max), `rescale` eta sigma_max, where
            sigma_max = min(1, (1 - alpha_s) / alpha_t); `confidence` shares eta sigma_max out
            among a sample's positions by the softmax of minus the probability that each had when
            committed, and commits as many masks more, so that their number is kept in the mean.
        start: Time from which on positions are masked again; times run from 1 down to 0.
        stop: Time until which they are.
        temperature: Of the tokens.

    Source: ReMDM, arXiv:2503.00307, sections 3 and 4.
    """

    reopens = True
    probability: Tensor
    """Of each token when it was last proposed, NaN before that, Float[T], in a run."""
    has_committed: Tensor
    """Which samples have positions that may be masked again, Bool[S], in a run."""

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

    def begin(self, canvas: Canvas) -> Sampler:
        """A copy that remembers how probable each committed token was."""
        run = copy(self)
        run.probability = torch.full(canvas.ids.shape, torch.nan, device=canvas.ids.device)
        return run

    def after_growth(self, grown: Grown) -> Sampler:
        """What it remembers moves with the tokens."""
        self.probability = grown.of(self.probability, new=torch.nan)
        return self

    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Draw tokens, and an order that ignores them."""
        token, order = super().propose(canvas, scores, noise=noise)
        column = torch.searchsorted(scores.allowed, token)
        is_committed = (canvas.hole == canvas.hole[scores.where[0]]) & ~self.probability.isnan()
        is_committed &= canvas.ids != canvas.mask_token_id
        count = torch.bincount(canvas.sample[is_committed], minlength=len(canvas.num_steps))
        self.has_committed = count > 0
        probability = scores.logits.softmax(-1).gather(-1, column[:, None]).squeeze(-1)
        self.probability[scores.where] = probability
        return token, order

    def quota(
        self, moment: Moment, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"]
    ) -> Int[Tensor, " S"]:
        """Each position on its own, so that the number is binomial; at the last step all."""
        kept_t, kept_s = 1 - moment.t, 1 - moment.s
        sigma = 0.0 if self.strategy == "confidence" else self._sigma(moment)
        share = (kept_s - (1 - sigma) * kept_t) / moment.t
        if self.strategy == "confidence":
            share += self._exchanged(moment) * self.has_committed / moment.num_open.clamp_min(1)
        is_taken = confidence >= 1 - share[sample]
        return sample[is_taken | (moment.s == 0)[sample]].bincount(minlength=len(moment.t))

    def reopened(
        self, canvas: Canvas, moment: Moment, where: Int[Tensor, " K"], *, noise: Noise
    ) -> Bool[Tensor, " K"]:
        """Each committed position on its own."""
        sample = canvas.sample[where]
        share = self._sigma(moment)[sample]
        if self.strategy == "confidence":
            share = self._exchanged(moment)[sample]
            doubt = (-self.probability[where]).exp()
            total = torch.zeros_like(moment.t).index_add_(0, sample, doubt)
            share = share * doubt / total[sample]
        return noise.uniform(where, Use.REOPEN) < share

    def _exchanged(self, moment: Moment) -> Tensor:
        """How many positions are masked again in the mean, as many as others can make up for."""
        return torch.minimum(self._sigma(moment), moment.num_open * moment.s / moment.t)

    def _sigma(self, moment: Moment) -> Tensor:
        """Probability with which a committed position is masked again, Float[S]."""
        most = (moment.s / (1 - moment.t).clamp_min(1e-9)).clamp(max=1)
        sigma = most.clamp(max=self.eta) if self.strategy == "cap" else self.eta * most
        is_on = (moment.t <= self.start) & (moment.s >= self.stop)
        return torch.where(is_on, sigma, 0.0)
