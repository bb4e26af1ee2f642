"""What samplers look at: the canvas, the scores of its open positions and the moment of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Canvas:
    """Samples to be filled, flat over T tokens.

    Attributes:
        ids: Tokens, masks where open, Int[T].
        sample: Sample of each token, Int[T].
        hole: Order of the token's hole within its sample, -1 where the token is given, Int[T]. A
            token of a hole that is no mask is given too.
        grammar: Row of `allowed` that holds at the token, -1 where given, Int[T].
        allowed: Ids that each grammar row permits, one sorted Int[G] per row.
        num_steps: Steps for each (sample, hole), Int[S, holes].
        mask_token_id: Id of an open position.
        shift: Of the times of each (sample, hole), Float[S, holes]; above 1 commits late, below 1
            early; None is 1.
        ends: Ids that end an answer: what is open behind one becomes a pad at once. Empty lets
            steps decide.
        pad_token_id: Written there.
    """

    ids: Tensor
    sample: Tensor
    hole: Tensor
    grammar: Tensor
    allowed: tuple[Tensor, ...]
    num_steps: Tensor
    mask_token_id: int
    shift: Tensor | None = None
    ends: tuple[int, ...] = ()
    pad_token_id: int = -1


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about positions that share one grammar row.

    Attributes:
        where: Their places on the canvas, ascending, Int[M].
        allowed: Ids of the columns, Int[G].
        logits: Float[M, G], in float32.
        rank: Place of each among its sample's open positions, Int[M].
        num_open: Open positions of each one's sample, Int[M].
        progress: Share of the hole's steps already taken, Float[M], in [0, 1).
        row: The grammar row.
    """

    where: Tensor
    allowed: Tensor
    logits: Tensor
    rank: Tensor
    num_open: Tensor
    progress: Tensor
    row: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """Where every sample stands in its hole's schedule.

    Attributes:
        t: Time before the step, from 1 down, Float[S].
        s: Time after it; 0 at a hole's last step, Float[S].
        num_open: Open positions, Int[S].
    """

    t: Tensor
    s: Tensor
    num_open: Tensor


LogitsAt = Callable[[Tensor, Tensor], Tensor]
"""(where Int[M], allowed Int[G]) -> logits Float[M, G] at the places asked for."""

Denoiser = Callable[[Tensor, Tensor], LogitsAt]
"""(ids Int[T], places Int[R]) -> logits at those of the places that are asked for.

One forward pass over the ids; places ascend, and no others can be asked for.
"""


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


def in_blocks(canvas: Canvas, block_size: int) -> Canvas:
    """Split every hole into runs of `block_size` positions that are filled from left to right.

    Steps are shared out by length, at least one for each block: with fewer steps than blocks there
    are as many forward passes as blocks, and nothing is left open. The last block may be shorter.

    Args:
        canvas: What is to be filled; its holes are counted in the order they are filled.
        block_size: Positions of a block, at least 1.

    Source: block diffusion, arXiv:2503.09573; the sharing of steps is Omni-Diffusion's.
    """
    samples, holes = canvas.num_steps.shape
    where = (canvas.hole >= 0).nonzero().squeeze(1)
    group = canvas.sample[where] * holes + canvas.hole[where]
    order = group.argsort(stable=True)
    rank = torch.empty_like(where)
    rank[order], size = rank_within(group[order], samples * holes)
    length = torch.empty_like(where)
    length[order] = size
    blocks = max(1, int((length.max().item() + block_size - 1) // block_size)) if len(where) else 1
    block = rank // block_size
    hole = canvas.hole.clone()
    hole[where] = canvas.hole[where] * blocks + block
    counts = torch.bincount(group * blocks + block, minlength=samples * holes * blocks)
    lengths = torch.bincount(group, minlength=samples * holes)[:, None].clamp_min(1)
    share = counts.view(-1, blocks) * canvas.num_steps.reshape(-1, 1) // lengths
    num_steps = share.clamp_min(1).view(samples, holes * blocks)
    shift = None if canvas.shift is None else canvas.shift.repeat_interleave(blocks, dim=1)
    return replace(canvas, hole=hole, num_steps=num_steps, shift=shift)
