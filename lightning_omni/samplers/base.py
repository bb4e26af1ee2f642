"""The reverse process: fill a canvas of masks in a fixed number of steps.

A canvas holds several samples one behind another. Each has holes that are filled in order (a text
answer before the speech that says it); within a hole the sampler decides which masks to commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Canvas:
    """Samples to be filled, flat over T tokens.

    Attributes:
        ids: Tokens, masks where open, Int[T].
        sample: Sample of each token, Int[T].
        hole: Order of the token's hole within its sample, -1 where the token is given, Int[T].
        grammar: Row of `allowed` that holds at the token, -1 where given, Int[T].
        allowed: Ids that each grammar row permits, one sorted Int[G] per row.
        num_steps: Steps for each (sample, hole), Int[S, holes].
        mask_token_id: Id of an open position.
    """

    ids: Tensor
    sample: Tensor
    hole: Tensor
    grammar: Tensor
    allowed: tuple[Tensor, ...]
    num_steps: Tensor
    mask_token_id: int


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about the open positions that share one grammar row.

    Attributes:
        where: Their places on the canvas, Int[M].
        allowed: Ids of the columns, Int[G].
        logits: Float[M, G], in float32.
        rank: Place of each among its sample's open positions, Int[M].
        num_open: Open positions of each one's sample, Int[M].
        progress: Share of the hole's steps already taken, Float[M], in [0, 1).
    """

    where: Tensor
    allowed: Tensor
    logits: Tensor
    rank: Tensor
    num_open: Tensor
    progress: Tensor


LogitsAt = Callable[[Tensor, Tensor], Tensor]
"""(where Int[M], allowed Int[G]) -> logits Float[M, G] at the places asked for."""

Denoiser = Callable[[Tensor], LogitsAt]
"""One forward pass over ids Int[T]; the result computes only the logits asked for."""


class Sampler(ABC):
    """Decides, at each step, what a mask would become and how sure that is."""

    @abstractmethod
    def propose(
        self, canvas: Canvas, scores: Scores, *, rng: Generator
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Propose a token id and a confidence for each open position; the surest are committed."""

    def quota(
        self,
        scheduled: Int[Tensor, " S"],
        confidence: Float[Tensor, " M"],
        sample: Int[Tensor, " M"],
    ) -> Int[Tensor, " S"]:
        """How many positions each sample commits: those that are sure, at least the schedule's.

        So `num_steps` bounds the forwards of every sampler.

        Args:
            scheduled: The schedule's number per sample.
            confidence: Of each open position.
            sample: Of each open position.
        """
        return torch.maximum(scheduled, self.num_sure(confidence, sample, len(scheduled)))

    def num_sure(
        self, confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
    ) -> Int[Tensor, " S"]:
        """How many of each sample's surest positions need not wait for the schedule; here none."""
        return torch.zeros(num_samples, dtype=torch.long, device=confidence.device)

    def mask_ratio(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Share of a hole still masked at time t; the identity spends steps evenly."""
        return t


def fill(
    denoise: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    *,
    rng: Generator,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Int[Tensor, " T"]:
    """Fill every hole and return the ids, with no mask left.

    Args:
        denoise: The model, or guidance around it.
        canvas: What to fill; not changed.
        sampler: Which tokens to commit.
        rng: All randomness.
        on_step: Told the step's number and the ids after it.
    """
    ids = canvas.ids.clone()
    step_number = 0
    for hole in range(canvas.num_steps.shape[1]):
        steps = canvas.num_steps[:, hole]
        for step in range(int(steps.max().item())):
            open_here = (ids == canvas.mask_token_id) & (canvas.hole == hole)
            if not open_here.any():
                break
            _step(denoise, canvas, sampler, ids, open_here, steps, step, rng)
            step_number += 1
            if on_step is not None:
                on_step(step_number, ids)
    return ids


def _step(
    denoise: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    ids: Tensor,
    open_here: Tensor,
    steps: Tensor,
    step: int,
    rng: Generator,
) -> None:
    """Commit the surest proposals of one step into `ids`."""
    where = open_here.nonzero().squeeze(1)
    sample = canvas.sample[where]
    rank, num_open = rank_within(sample, len(steps))
    progress = (step / steps[sample]).clamp(max=1.0)
    token = torch.empty_like(where)
    confidence = torch.empty(len(where), device=ids.device)
    grammar = canvas.grammar[where]
    now = Canvas(
        ids, canvas.sample, canvas.hole, canvas.grammar, canvas.allowed, steps, canvas.mask_token_id
    )
    logits_at = denoise(ids)
    for g in sorted(set(grammar.tolist())):
        chosen = (grammar == g).nonzero().squeeze(1)
        allowed = canvas.allowed[g]
        logits = logits_at(where[chosen], allowed).float()
        scores = Scores(
            where[chosen], allowed, logits, rank[chosen], num_open[chosen], progress[chosen]
        )
        proposed, sure = sampler.propose(now, scores, rng=rng)
        token[chosen], confidence[chosen] = proposed, sure.float()
    opened = torch.bincount(sample, minlength=len(steps))
    scheduled = num_to_commit(opened, step, steps, sampler)
    quota = sampler.quota(scheduled, confidence, sample)
    chosen = surest(confidence, sample, quota)
    ids[where[chosen]] = token[chosen]


def num_to_commit(
    num_open: Int[Tensor, " S"], step: int, steps: Int[Tensor, " S"], sampler: Sampler
) -> Int[Tensor, " S"]:
    """How many masks a sample commits at a step: max(1, floor(open * (1 - r(s) / r(t)))).

    Times run from 1 down to 1e-3 in `steps` equal steps; the last step commits all.

    Source: the schedule of Dream, arXiv:2508.15487, as used by Omni-Diffusion.
    """
    t = 1 - (1 - 1e-3) * step / steps
    s = 1 - (1 - 1e-3) * (step + 1) / steps
    ratio = sampler.mask_ratio(s.clamp_min(1e-3)) / sampler.mask_ratio(t.clamp_min(1e-3))
    count = (num_open * (1 - ratio) + 1e-6).floor().long().clamp(min=1)
    return torch.where(step + 1 >= steps, num_open, count)


def rank_within(
    sample: Int[Tensor, " M"], num_samples: int
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Place of each among its sample's entries, and how many those are; `sample` is sorted."""
    count = torch.bincount(sample, minlength=num_samples)
    first = count.cumsum(0) - count
    return torch.arange(len(sample), device=sample.device) - first[sample], count[sample]


def surest_first(
    confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], num_samples: int
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Order of samples one behind another, each from its surest entry down, and the ranks."""
    order = confidence.argsort(descending=True, stable=True)
    order = order[sample[order].argsort(stable=True)]
    return order, rank_within(sample[order], num_samples)[0]


def surest(
    confidence: Float[Tensor, " M"], sample: Int[Tensor, " M"], quota: Int[Tensor, " S"]
) -> Int[Tensor, " K"]:
    """Entries to commit: each sample's `quota` largest confidences; `sample` is sorted.

    Ties fall as `torch.topk` lets them over a sample's own entries, so the outcome does not depend
    on what else is in the batch.
    """
    counts = torch.bincount(sample, minlength=len(quota))
    starts = (counts.cumsum(0) - counts).tolist()
    parts = torch.split(confidence, counts.tolist())
    return torch.cat(
        [
            start + part.topk(min(k, len(part))).indices
            for start, part, k in zip(starts, parts, quota.tolist(), strict=True)
        ]
    )
