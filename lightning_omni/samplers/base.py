"""The one interface of samplers: what a mask would become, and which masks need not wait."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.errors import check_within
from lightning_omni.samplers.canvas import Canvas, Moment, Scores
from lightning_omni.samplers.growth import Grown
from lightning_omni.samplers.noise import Noise, Use


def check_choice(temperature: float, *, top_p: float = 1.0, top_k: int | None = None) -> None:
    """Refuse options of `truncate` and `choose` that leave no distribution.

    Raises:
        OmniError: If so.
    """
    check_within("temperature", temperature, 0)
    check_within("top_p", top_p, 0, 1)
    if top_k is not None:
        check_within("top_k", top_k, 1)


def max_probability(log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
    """Probability of the likeliest token."""
    return log_p.max(-1).values.exp()


def lead(log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
    """Probability of the likeliest token less that of the second; of a single one, its own."""
    best = log_p.topk(min(2, log_p.shape[-1]), dim=-1).values.exp()
    return best[:, 0] - best[:, 1:].sum(-1)


def negative_entropy(log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
    """Sum of p log p, in nats; 0 when certain."""
    return (log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)


def truncate(
    logits: Float[Tensor, "M G"], *, top_p: float, top_k: int | None
) -> Float[Tensor, "M G"]:
    """Set what lies outside the nucleus, then outside the `top_k` likeliest, to -inf.

    Source: nucleus sampling, arXiv:1904.09751. The token that crosses `top_p` is kept.
    """
    if top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, index, before > top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    if top_k is not None and top_k < logits.shape[-1]:
        threshold = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    return logits


def gumbel(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard Gumbel noise of uniform float64; float32 noise lowers the temperature silently.

    Source: ReMDM, arXiv:2503.00307, and arXiv:2409.02908 on the float32 truncation.
    """
    waiting = -torch.log(u.clamp_min(1e-300))
    return -torch.log(waiting.clamp_min(1e-300))


def choose(
    logits: Float[Tensor, "M G"], *, temperature: float, noise: Noise, where: Int[Tensor, " M"]
) -> Int[Tensor, " M"]:
    """Column of the likeliest token at temperature 0, of a sampled one above it."""
    if temperature == 0:
        return logits.argmax(-1)
    u = noise.table(where, logits.shape[1], Use.TOKEN)
    return (logits.double() / temperature + gumbel(u)).argmax(-1)


class Sampler(ABC):
    """Decides, at each step, what a mask would become and how sure that is.

    Attributes:
        reopens: Whether committed positions may become masks again.
        revises: Whether committed tokens may be replaced while their sample has masks.
    """

    reopens: bool = False
    revises: bool = False

    def begin(self, canvas: Canvas) -> Sampler:
        """The sampler of one run; one that remembers steps returns a copy with an empty memory."""
        return self

    def after_growth(self, grown: Grown) -> Sampler:
        """The sampler of a run whose canvas grew; one that remembers places moves its memory."""
        return self

    @abstractmethod
    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Propose a token id and a confidence for each open position; the surest are committed."""

    def quota(
        self, moment: Moment, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"]
    ) -> Int[Tensor, " S"]:
        """How many positions each sample commits: those that are sure, at least the schedule's.

        So `num_steps` bounds the forwards of every sampler.

        Args:
            moment: Where samples stand.
            confidence: Of each open position.
            sample: Of each open position.
        """
        sure = self.num_sure(confidence, sample, len(moment.t))
        return torch.maximum(self.scheduled(moment), sure)

    def scheduled(self, moment: Moment) -> Int[Tensor, " S"]:
        """The schedule's number: max(1, floor(open * (1 - r(s) / r(t)))), at the last step all.

        Source: the schedule of Dream, arXiv:2508.15487, as used by Omni-Diffusion.
        """
        ratio = self.mask_ratio(moment.s) / self.mask_ratio(moment.t)
        count = (moment.num_open * (1 - ratio) + 1e-6).floor().long().clamp(min=1)
        return torch.where(moment.s == 0, moment.num_open, count)

    def num_sure(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """How many of each sample's surest positions need not wait for the schedule; here none."""
        return torch.zeros(num_samples, dtype=torch.long, device=confidence.device)

    def mask_ratio(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Share of a hole still masked at time t; the identity spends steps evenly."""
        return t

    def reopened(
        self, canvas: Canvas, moment: Moment, where: Int[Tensor, " K"], *, noise: Noise
    ) -> Bool[Tensor, " K"]:
        """Which positions committed in earlier steps become masks again; asked if `reopens`."""
        return torch.zeros_like(where, dtype=torch.bool)

    def revised(self, canvas: Canvas, scores: Scores, *, noise: Noise) -> Int[Tensor, " K"]:
        """What committed positions become, most of them what they are; asked if `revises`."""
        return canvas.ids[scores.where]
