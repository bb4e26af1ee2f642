"""Holes that get more masks while they are filled, where the model wants more room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_omni.errors import check_within
from lightning_omni.samplers.canvas import Canvas, Denoiser, Scores


@dataclass(frozen=True, slots=True)
class Growth:
    """When a hole that is being filled gets more masks.

    A step at which a hole grows commits nothing there. While the last positions are not known to
    lie behind the answer, masks are appended. Once that is likely but not sure, the mask whose
    likeliest token is least probable is replaced by several, if even that is improbable.

    Attributes:
        start: Share of its usual length that a hole begins with.
        masks: So many stand for one that is replaced; so many are appended.
        window: Last positions of a hole that are looked at.
        append_below: Mean probability of an end there, below which masks are appended.
        insert_below: The same, below which a mask is replaced.
        unsure: Probability of a mask's likeliest token, below which it may be replaced.
        longest: Positions of a hole at most; one that begins longer does not grow.

    Raises:
        OmniError: If a number is out of its range.

    Source: DAEDAL, arXiv:2508.00819.
    """

    start: float = 1.0
    masks: int = 4
    window: int = 6
    append_below: float = 0.5
    insert_below: float = 0.9
    unsure: float = 0.1
    longest: int = 256

    def __post_init__(self) -> None:
        check_within("grow.start", self.start, 0.01, 1)
        check_within("grow.masks", self.masks, 2)
        check_within("grow.window", self.window, 1)
        for name in ("append_below", "insert_below", "unsure"):
            check_within(f"grow.{name}", getattr(self, name), 0, 1)
        check_within("grow.longest", self.longest, 1)


@dataclass(frozen=True, slots=True)
class Growing:
    """What the reverse process needs to let holes grow.

    Attributes:
        growth: When.
        ends: Ids behind which an answer has nothing more.
        denoiser: The model over a canvas of another size.
    """

    growth: Growth
    ends: tuple[int, ...]
    denoiser: Callable[[Canvas], Denoiser]


@dataclass(frozen=True, slots=True)
class Grown:
    """A canvas that grew.

    Attributes:
        canvas: As it is now, over T tokens.
        source: Where each token was before, -1 of new masks, Int[T].
    """

    canvas: Canvas
    source: Tensor

    def of(self, values: Tensor, new: float | int | bool) -> Tensor:
        """What belonged to tokens before, with `new` for the new ones."""
        return torch.where(self.source < 0, new, values[self.source.clamp_min(0)])

    def place(self, where: Tensor) -> Tensor:
        """Where tokens are now that were at these places."""
        is_old = self.source >= 0
        return is_old.nonzero().squeeze(1)[where]


def tail(canvas: Canvas, window: int) -> Bool[Tensor, " T"]:
    """The last positions of each sample's holes."""
    where = (canvas.hole >= 0).nonzero().squeeze(1)
    sample = canvas.sample[where]
    size = torch.bincount(sample, minlength=len(canvas.num_steps))
    behind = size.cumsum(0)[sample] - torch.arange(len(where), device=where.device)
    is_last = torch.zeros_like(canvas.hole, dtype=torch.bool)
    is_last[where[behind <= window]] = True
    return is_last


def end_probability(
    canvas: Canvas,
    scores: list[tuple[Tensor, Scores]],
    is_last: Bool[Tensor, " T"],
    ends: tuple[int, ...],
) -> Float[Tensor, " S"]:
    """Mean probability of an end over the last positions of each sample; known where decided.

    Args:
        canvas: As it is.
        scores: Of all open ones of these positions.
        is_last: These positions.
        ends: Ids that count.
    """
    wanted = torch.tensor(ends, device=canvas.ids.device)
    probability = torch.isin(canvas.ids, wanted).float()
    for _, of_row in scores:
        is_end = torch.isin(of_row.allowed, wanted)
        probability[of_row.where] = of_row.logits.softmax(-1)[:, is_end].sum(-1)
    num_samples = len(canvas.num_steps)
    total = torch.zeros(num_samples, device=canvas.ids.device)
    total.index_add_(0, canvas.sample[is_last], probability[is_last])
    count = torch.bincount(canvas.sample[is_last], minlength=num_samples)
    return total / count.clamp_min(1)


def masks_to_add(
    canvas: Canvas,
    scores: list[tuple[Tensor, Scores]],
    at_end: Float[Tensor, " S"],
    growth: Growth,
    may_grow: Bool[Tensor, " S"],
) -> tuple[Int[Tensor, " S"], Int[Tensor, " S"]]:
    """Behind which place each sample gets how many more masks; none where it does not grow.

    Args:
        canvas: As it is.
        scores: Of all open positions of the hole that is being filled.
        at_end: See `end_probability`.
        growth: When.
        may_grow: Samples that are asked.
    """
    in_hole = (canvas.hole >= 0).nonzero().squeeze(1)
    sample = canvas.sample[in_hole]
    length = torch.bincount(sample, minlength=len(at_end))
    place = torch.zeros_like(length).scatter_reduce(0, sample, in_hole, "amax")
    surest = torch.full(canvas.ids.shape, torch.inf, device=canvas.ids.device)
    for _, of_row in scores:
        surest[of_row.where] = of_row.logits.softmax(-1).amax(-1)
    more = torch.zeros_like(length)
    may_grow = may_grow & (at_end < growth.insert_below)
    for n in (may_grow & (length < growth.longest)).nonzero().squeeze(1).tolist():
        own = (canvas.sample == n).nonzero().squeeze(1)
        least = own[surest[own].argmin()]
        if at_end[n] < growth.append_below:
            more[n] = growth.masks
        elif surest[least] < growth.unsure:
            place[n], more[n] = least, growth.masks - 1
    return place, torch.minimum(more, (growth.longest - length).clamp_min(0))


def with_masks(
    canvas: Canvas,
    hole: int,
    place: Int[Tensor, " S"],
    more: Int[Tensor, " S"],
    steps_per_token: Float[Tensor, " S"],
) -> Grown:
    """Put masks behind one place of each sample; what is there and behind it keeps its order.

    The steps of the place's hole grow with it. The step that was taken to see that it must is given
    back to the hole that is being filled.

    Args:
        canvas: As it is.
        hole: The one that is being filled.
        place: Of each sample.
        more: Masks for it.
        steps_per_token: Of each sample.
    """
    chosen = (more > 0).nonzero().squeeze(1)
    copies = torch.ones_like(canvas.ids)
    copies[place[chosen]] += more[chosen]
    near = torch.arange(len(copies), device=copies.device).repeat_interleave(copies)
    is_new = torch.zeros_like(near, dtype=torch.bool)
    is_new[1:] = near[1:] == near[:-1]
    num_steps = canvas.num_steps.clone()
    num_steps[chosen, hole] += 1
    num_steps[chosen, canvas.hole[place[chosen]]] += (more * steps_per_token).ceil().long()[chosen]
    grown = replace(
        canvas,
        ids=canvas.ids[near].masked_fill(is_new, canvas.mask_token_id),
        sample=canvas.sample[near],
        hole=canvas.hole[near],
        grammar=canvas.grammar[near],
        num_steps=num_steps,
    )
    return Grown(grown, near.masked_fill(is_new, -1))
