"""The interface of samplers, and the choice of tokens that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.errors import check_within
from lightning_omni.samplers.canvas import Canvas, Scores, StepTimes
from lightning_omni.samplers.noise import Noise, Use


class Sampler(ABC):
    """Propose, at each step, a token and a confidence for every masked position.

    Attributes:
        remasks: whether committed positions may be masked again; `remask` is called if so.
    """

    remasks: bool = False

    def begin(self, canvas: Canvas) -> Sampler:
        """Return the sampler of one run; one with state returns a copy with fresh state."""
        return self

    @abstractmethod
    def propose(
        self, canvas: Canvas, scores: Scores, *, noise: Noise
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Propose a token id and a confidence per masked position; the most confident commit."""

    def num_transfer_tokens(
        self, times: StepTimes, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"]
    ) -> Int[Tensor, " S"]:
        """Return how many positions each sample commits: at least the schedule's number.

        So `num_steps` bounds the forward passes of every sampler.

        Args:
            times: times of the step.
            confidence: confidence of each masked position.
            sample: sample of each masked position.
        """
        confident = self.num_confident(confidence, sample, len(times.t))
        return torch.maximum(self.num_scheduled(times), confident)

    def num_scheduled(self, times: StepTimes) -> Int[Tensor, " S"]:
        """Return max(1, floor(masked * (1 - r(s) / r(t)))), and all masked ones at the last step.

        Source: the schedule of Dream, arXiv:2508.15487, as used by Omni-Diffusion.
        """
        ratio = self.mask_ratio(times.s) / self.mask_ratio(times.t)
        count = (times.num_masked * (1 - ratio) + 1e-6).floor().long().clamp(min=1)
        return torch.where(times.s == 0, times.num_masked, count)

    def num_confident(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """Return how many positions per sample commit ahead of the schedule; by default none."""
        return torch.zeros(num_samples, dtype=torch.long, device=confidence.device)

    def mask_ratio(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the share of a block still masked at time t; the identity is a linear schedule."""
        return t

    def remask(
        self, canvas: Canvas, times: StepTimes, positions: Int[Tensor, " K"], *, noise: Noise
    ) -> Bool[Tensor, " K"]:
        """Return which positions, committed in earlier steps, are masked again."""
        return torch.zeros_like(positions, dtype=torch.bool)


def check_choice(temperature: float, *, top_p: float = 1.0, top_k: int | None = None) -> None:
    """Check the options of `truncate` and `choose`.

    Raises:
        OmniError: if one leaves no distribution.
    """
    check_within("temperature", temperature, 0)
    check_within("top_p", top_p, 0, 1)
    if top_k is not None:
        check_within("top_k", top_k, 1)


def negative_entropy(log_p: Float[Tensor, "M G"]) -> Float[Tensor, " M"]:
    """Return the sum of p log p, in nats; 0 is certain."""
    return (log_p.exp() * log_p.clamp_min(-1e4)).sum(-1)


def truncate(
    logits: Float[Tensor, "M G"], *, top_p: float, top_k: int | None
) -> Float[Tensor, "M G"]:
    """Set logits outside the nucleus, then those outside the `top_k` likeliest, to -inf.

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
    """Return standard Gumbel noise from uniform float64.

    float32 noise would lower the temperature silently: ReMDM, arXiv:2503.00307, and
    arXiv:2409.02908.
    """
    exponential = -torch.log(u.clamp_min(1e-300))
    return -torch.log(exponential.clamp_min(1e-300))


def choose(
    logits: Float[Tensor, "M G"], *, temperature: float, noise: Noise, positions: Int[Tensor, " M"]
) -> Int[Tensor, " M"]:
    """Return the column of the likeliest token at temperature 0, of a sampled one above it."""
    if temperature == 0:
        return logits.argmax(-1)
    u = noise.table(positions, logits.shape[1], Use.TOKEN)
    return (logits.double() / temperature + gumbel(u)).argmax(-1)
