"""The reverse process: fill a canvas of masks in a bounded number of steps.

A canvas holds several samples one behind another. Each has holes that are filled in order (a text
answer before the speech that says it); within a hole the sampler decides which masks to commit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_omni.diffusion.schedule import T_MIN, shifted
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import (
    Canvas,
    Denoiser,
    LogitsAt,
    Moment,
    Scores,
    rank_within,
    surest,
)
from lightning_omni.samplers.growth import (
    Growing,
    Grown,
    end_probability,
    masks_to_add,
    tail,
    with_masks,
)
from lightning_omni.samplers.noise import Noise


@dataclass(frozen=True, slots=True)
class StepEvent:
    """What one step did.

    Attributes:
        number: Of the step, from 1, over all holes.
        steps: How many each sample has taken, this one included: one that has finished a hole waits
            for the others, Int[S].
        is_asked: Samples that had masks in the hole, for which the model was run, Bool[S].
        ids: The canvas after it, Int[T].
        where: Places that changed, ascending, Int[K].
        confidence: Of each, as the sampler ranks; NaN where a token was reopened or revised.
        grown: If holes grew at the step's end; the rest is then told of the canvas that grew.
    """

    number: int
    steps: Tensor
    is_asked: Tensor
    ids: Tensor
    where: Tensor
    confidence: Tensor
    grown: Grown | None = None


StepHook = Callable[[StepEvent], None]


def fill(
    denoise: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    *,
    seeds: Int[Tensor, " S"],
    on_step: StepHook | None = None,
    growing: Growing | None = None,
) -> Int[Tensor, " T"]:
    """Fill every hole and return the ids, with no mask left.

    Every sample's randomness, steps and growth are its own: it becomes what it would alone.

    Args:
        denoise: The model, or guidance around it.
        canvas: What to fill; not changed.
        sampler: Which tokens to commit.
        seeds: Of each sample's randomness.
        on_step: Told of every step.
        growing: If holes may grow; those that hold given tokens do not, so that these stay.
    """
    run = _Run(denoise, canvas, sampler.begin(canvas), seeds, growing)
    for hole in range(canvas.num_steps.shape[1]):
        for step in itertools.count():
            if not run.has_work(hole, step):
                break
            event = run.step(hole, step)
            if on_step is not None:
                on_step(event)
    return run.ids


class _Run:
    """A canvas while it is being filled."""

    def __init__(
        self,
        denoise: Denoiser,
        canvas: Canvas,
        sampler: Sampler,
        seeds: Tensor,
        growing: Growing | None,
    ) -> None:
        self.denoise, self.canvas, self.sampler = denoise, canvas, sampler
        self.seeds, self.growing = seeds, growing
        self.noise = Noise.of(seeds, canvas.sample)
        self.ids = canvas.ids.clone()
        self.was_open = canvas.ids == canvas.mask_token_id
        in_hole, size = canvas.sample[canvas.hole >= 0], len(canvas.num_steps)
        open_hole = canvas.sample[self.was_open & (canvas.hole >= 0)]
        num_open = torch.bincount(open_hole, minlength=size)
        is_own = torch.zeros_like(canvas.num_steps, dtype=torch.bool)
        is_own[in_hole, canvas.hole[canvas.hole >= 0]] = True
        self.steps_per_token = (canvas.num_steps * is_own).sum(1) / num_open.clamp_min(1)
        self.is_whole = num_open == torch.bincount(in_hole, minlength=size)
        self.number = 0

    def has_work(self, hole: int, step: int) -> bool:
        """Whether anything in a hole may still change."""
        if step >= int(self.canvas.num_steps[:, hole].max().item()):
            return False
        return self.sampler.reopens or bool(self._is_open(hole).any())

    def step(self, hole: int, step: int) -> StepEvent:
        """Take one step of every sample that has not finished this hole."""
        steps, is_open = self.canvas.num_steps[:, hole], self._is_open(hole)
        now = replace(self.canvas, ids=self.ids.clone(), num_steps=steps)
        num_open = torch.bincount(now.sample[is_open], minlength=len(steps))
        moment = _moment(step, steps, self._shift(hole), num_open)
        confidence = torch.full(self.ids.shape, torch.nan, device=self.ids.device)
        committed = self.was_open & (now.hole == hole) & ~is_open
        place = more = torch.zeros_like(steps)
        if is_open.any():
            is_asked = committed & (num_open > 0)[now.sample] & self.sampler.revises
            is_last = self._tail()
            wanted = is_open | is_asked | (is_last & (now.ids == now.mask_token_id))
            logits_at = self.denoise(now.ids, wanted.nonzero().squeeze(1))
            where = is_open.nonzero().squeeze(1)
            scores = _scores(logits_at, now, where, step)
            place, more = self._masks_to_add(logits_at, now, is_last, scores, step, num_open)
            self._commit(now, moment, where, scores, confidence, more > 0)
            if self.sampler.revises:
                where = is_asked.nonzero().squeeze(1)
                for chosen, of_row in _scores(logits_at, now, where, step):
                    self.ids[where[chosen]] = self.sampler.revised(now, of_row, noise=self.noise)
        if self.sampler.reopens:
            where = (committed & (moment.s > 0)[now.sample]).nonzero().squeeze(1)
            is_again = self.sampler.reopened(now, moment, where, noise=self.noise)
            self.ids[where[is_again]] = now.mask_token_id
        self._drop_tails(hole)
        self.number += 1
        takes_part = self._takes_part(hole, step, num_open)
        self.noise = self.noise.at(self.noise.moment + takes_part)
        where = (self.ids != now.ids).nonzero().squeeze(1)
        confidence = confidence[where]
        grown = self._grow(hole, place, more) if more.any() else None
        if grown is not None:
            where = grown.place(where)
        so_far = self.number, self.noise.moment, num_open > 0
        return StepEvent(*so_far, self.ids.clone(), where, confidence, grown)

    def _masks_to_add(
        self,
        logits_at: LogitsAt,
        now: Canvas,
        is_last: Tensor,
        scores: list[tuple[Tensor, Scores]],
        step: int,
        num_open: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Where samples grow and by how much, Int[S] and Int[S]."""
        if self.growing is None:
            return torch.zeros_like(num_open), torch.zeros_like(num_open)
        growth, ends = self.growing.growth, self.growing.ends
        where = (is_last & (now.ids == now.mask_token_id)).nonzero().squeeze(1)
        at_tail = _scores(logits_at, now, where, step)
        at_end = end_probability(now, at_tail, is_last, ends)
        return masks_to_add(now, scores, at_end, growth, self.is_whole & (num_open > 0))

    def _tail(self) -> Tensor:
        """The places that say whether holes must grow."""
        if self.growing is None:
            return torch.zeros_like(self.was_open)
        return tail(self.canvas, self.growing.growth.window)

    def _grow(self, hole: int, place: Tensor, more: Tensor) -> Grown:
        """Go on with a canvas that has more masks."""
        assert self.growing is not None  # noqa: S101 - else nothing grows
        canvas = replace(self.canvas, ids=self.ids)
        grown = with_masks(canvas, hole, place, more, self.steps_per_token)
        self.canvas, self.ids = grown.canvas, grown.canvas.ids
        self.was_open = grown.of(self.was_open, new=True)
        self.sampler = self.sampler.after_growth(grown)
        self.noise = Noise.of(self.seeds, self.canvas.sample).at(self.noise.moment)
        self.denoise = self.growing.denoiser(self.canvas)
        return grown

    def _commit(
        self,
        now: Canvas,
        moment: Moment,
        where: Tensor,
        scores: list[tuple[Tensor, Scores]],
        confidence: Tensor,
        waits: Tensor,
    ) -> None:
        """Write the surest proposals into the ids, and how sure they were into `confidence`.

        Samples that wait (Bool[S]) commit nothing.
        """
        token, sure = torch.empty_like(where), torch.empty(len(where), device=where.device)
        for chosen, of_row in scores:
            proposed, how_sure = self.sampler.propose(now, of_row, noise=self.noise)
            token[chosen], sure[chosen] = proposed, how_sure.float()
        sample = now.sample[where]
        quota = self.sampler.quota(moment, sure, sample).masked_fill(waits, 0)
        chosen = surest(sure, sample, quota)
        self.ids[where[chosen]] = token[chosen]
        confidence[where[chosen]] = sure[chosen]

    def _drop_tails(self, hole: int) -> None:
        """Fill what is open behind an answer's end with pads."""
        if not self.canvas.ends:
            return
        ends = torch.tensor(self.canvas.ends, device=self.ids.device)
        sample, place = self.canvas.sample, torch.arange(len(self.ids), device=self.ids.device)
        is_end = self.was_open & torch.isin(self.ids, ends)
        first = torch.full_like(self.canvas.num_steps[:, hole], len(self.ids))
        first.scatter_reduce_(0, sample[is_end], place[is_end], "amin")
        is_tail = (self.ids == self.canvas.mask_token_id) & (place > first[sample])
        self.ids[is_tail & (self.canvas.hole >= 0)] = self.canvas.pad_token_id

    def _takes_part(self, hole: int, step: int, num_open: Tensor) -> Tensor:
        """Which samples would take this step if they were alone, Bool[S]."""
        if not self.sampler.reopens:
            return num_open > 0
        begun = self.canvas.sample[self.was_open & (self.canvas.hole == hole)]
        is_in_hole = torch.bincount(begun, minlength=len(num_open)) > 0
        return is_in_hole & (step < self.canvas.num_steps[:, hole])

    def _is_open(self, hole: int) -> Tensor:
        return (self.ids == self.canvas.mask_token_id) & (self.canvas.hole == hole)

    def _shift(self, hole: int) -> Tensor | float:
        return 1.0 if self.canvas.shift is None else self.canvas.shift[:, hole]


def _moment(step: int, steps: Tensor, shift: Tensor | float, num_open: Tensor) -> Moment:
    """Times run from 1 down to T_MIN in equal steps, and then to 0."""
    t, s = ((1 - (1 - T_MIN) * k / steps).clamp_min(T_MIN) for k in (step, step + 1))
    t, s = shifted(t, shift), shifted(s, shift)
    return Moment(t, torch.where(step + 1 >= steps, 0.0, s), num_open)


def _scores(
    logits_at: LogitsAt, now: Canvas, where: Tensor, step: int
) -> list[tuple[Tensor, Scores]]:
    """Scores of places by grammar row, each with the indices into `where` that it covers."""
    sample, steps = now.sample[where], now.num_steps
    rank, count = rank_within(sample, len(steps))
    progress = (step / steps[sample]).clamp(max=1.0)
    rows = now.grammar[where]
    found = []
    for row in sorted(set(rows.tolist())):
        chosen = (rows == row).nonzero().squeeze(1)
        allowed = now.allowed[row]
        logits = logits_at(where[chosen], allowed).float()
        of_row = (rank[chosen], count[chosen], progress[chosen], row)
        found.append((chosen, Scores(where[chosen], allowed, logits, *of_row)))
    return found
