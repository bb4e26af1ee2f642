"""The reverse process: unmask a canvas in a bounded number of denoising steps.

A canvas holds several samples, each with blocks that are unmasked in order; within a block the
sampler decides which masked positions are committed. `ReverseLoop` takes one step at a time;
`sample` is its plain driver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_omni.diffusion.schedule import T_MIN, shift_timesteps
from lightning_omni.samplers.base import Sampler
from lightning_omni.samplers.canvas import Canvas, Denoiser, LogitsAt, Scores, StepTimes, to_device
from lightning_omni.samplers.noise import Noise
from lightning_omni.samplers.ranking import most_confident, rank_within_sample


@dataclass(frozen=True, slots=True)
class StepEvent:
    """The changes of one step.

    Attributes:
        number: number of the step, from 1, over all blocks.
        steps: number of steps that each sample has taken, this one included; a sample that has
            finished a block waits for the others, Int[S].
        is_active: whether a sample had masks in the block, so that the model was run, Bool[S].
        ids: the canvas after the step, Int[T].
        positions: positions that changed, ascending, Int[K].
        confidence: the sampler's confidence at each; NaN where a token was masked again.
    """

    number: int
    steps: Tensor
    is_active: Tensor
    ids: Tensor
    positions: Tensor
    confidence: Tensor


StepHook = Callable[[StepEvent], None]


def sample(
    denoise: Denoiser,
    canvas: Canvas,
    sampler: Sampler,
    *,
    seeds: Int[Tensor, " S"],
    on_step: StepHook | None = None,
) -> Int[Tensor, " T"]:
    """Unmask every block and return the ids, none of them masked.

    Noise and steps belong to a sample, so each result equals that of the sample alone.

    Args:
        denoise: the model, or guidance around it.
        canvas: the canvas; not changed.
        sampler: the rule that selects tokens to commit.
        seeds: one seed per sample.
        on_step: called after every step.
    """
    loop = ReverseLoop(denoise, canvas, sampler, seeds=seeds)
    while (event := loop.step()) is not None:
        if on_step is not None:
            on_step(event)
    return to_device(loop.ids, canvas.ids.device)


class ReverseLoop:
    """A canvas on its way from masks to tokens; arguments are those of `sample`.

    The canvas is on the host, which decides about positions; the network and the sampler's
    proposals are on their device. So the host waits for a device once per step: for proposals.
    """

    def __init__(
        self, denoise: Denoiser, canvas: Canvas, sampler: Sampler, *, seeds: Int[Tensor, " S"]
    ) -> None:
        self.denoise, self.canvas = denoise, canvas.to("cpu")
        self.device = canvas.allowed[0].device
        self.canvas_on_device = canvas.to(self.device)
        self.sampler = sampler.with_fresh_state(self.canvas_on_device)
        self.noise = Noise.for_samples(seeds.cpu(), self.canvas.sample)
        self.noise_on_device = self.noise.to(self.device)
        self.ids = self.canvas.ids.clone()
        self.was_masked = self.ids == canvas.mask_token_id
        self.block = self.step_in_block = self.number = 0

    def step(self) -> StepEvent | None:
        """Take one step of every sample that has not finished the block; None when all is done."""
        while not self._block_may_change():
            if self.block + 1 >= self.canvas.num_steps.shape[1]:
                return None
            self.block, self.step_in_block = self.block + 1, 0
        steps, is_masked = self.canvas.num_steps[:, self.block], self._is_masked()
        now = replace(self.canvas, ids=self.ids.clone(), num_steps=steps)
        num_masked = torch.bincount(now.sample[is_masked], minlength=len(steps))
        times = _step_times(self.step_in_block, steps, self._timestep_shift(), num_masked)
        confidence = torch.full(self.ids.shape, torch.nan, device=self.ids.device)
        if is_masked.any():
            self._commit(now, times, is_masked.nonzero().squeeze(1), confidence)
        if self.sampler.remasks:
            committed = self.was_masked & (now.block == self.block) & ~is_masked
            positions = (committed & (times.s > 0)[now.sample]).nonzero().squeeze(1)
            is_again = self.sampler.remask(now, times, positions, noise=self.noise)
            self.ids[positions[is_again]] = now.mask_token_id
        self._pad_behind_ends()
        self.number += 1
        self.noise = self.noise.at_steps(self.noise.step + self._samples_taking_step(num_masked))
        self.step_in_block += 1
        positions = (self.ids != now.ids).nonzero().squeeze(1)
        return StepEvent(
            self.number,
            self.noise.step,
            num_masked > 0,
            self.ids.clone(),
            positions,
            confidence[positions],
        )

    def _block_may_change(self) -> bool:
        """Tell whether anything in the block may still change."""
        if self.step_in_block >= int(self.canvas.num_steps[:, self.block].max().item()):
            return False
        return self.sampler.remasks or bool(self._is_masked().any())

    def _commit(self, now: Canvas, times: StepTimes, positions: Tensor, out: Tensor) -> None:
        """Write the most confident proposals into the ids, and their confidence into `out`."""
        token, confidence = self._propose(now, positions)
        owner = now.sample[positions]
        count = self.sampler.num_transfer_tokens(times, confidence, owner)
        chosen = most_confident(confidence, owner, count)
        self.ids[positions[chosen]] = token[chosen]
        out[positions[chosen]] = confidence[chosen]

    def _propose(self, now: Canvas, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return a token and a confidence for every masked position."""
        logits_at = self.denoise(now.ids, positions)
        there = replace(
            self.canvas_on_device,
            ids=to_device(now.ids, self.device),
            num_steps=to_device(now.num_steps, self.device),
        )
        noise = self.noise_on_device.at_steps(to_device(self.noise.step, self.device))
        order, proposed = [], []
        for index, scores in _score_by_allowed_set(logits_at, now, positions, self.step_in_block):
            token, confidence = self.sampler.propose(there, scores, noise=noise)
            order.append(index)
            proposed.append(torch.stack((token.double(), confidence.float().double())))
        found = torch.empty(2, len(positions), dtype=torch.float64)
        found[:, torch.cat(order)] = torch.cat(proposed, dim=1).cpu()
        return found[0].long(), found[1].float()

    def _pad_behind_ends(self) -> None:
        """Fill masks behind an answer's end with pads."""
        if not self.canvas.ends:
            return
        ends = torch.tensor(self.canvas.ends, device=self.ids.device)
        owner, index = self.canvas.sample, torch.arange(len(self.ids), device=self.ids.device)
        is_end = self.was_masked & torch.isin(self.ids, ends)
        first = torch.full_like(self.canvas.num_steps[:, self.block], len(self.ids))
        first.scatter_reduce_(0, owner[is_end], index[is_end], "amin")
        is_behind = (self.ids == self.canvas.mask_token_id) & (index > first[owner])
        self.ids[is_behind & (self.canvas.block >= 0)] = self.canvas.pad_token_id

    def _samples_taking_step(self, num_masked: Tensor) -> Tensor:
        """Return which samples would take this step if they were alone, Bool[S]."""
        if not self.sampler.remasks:
            return num_masked > 0
        begun = self.canvas.sample[self.was_masked & (self.canvas.block == self.block)]
        has_block = torch.bincount(begun, minlength=len(num_masked)) > 0
        return has_block & (self.step_in_block < self.canvas.num_steps[:, self.block])

    def _is_masked(self) -> Tensor:
        return (self.ids == self.canvas.mask_token_id) & (self.canvas.block == self.block)

    def _timestep_shift(self) -> Tensor | float:
        shift = self.canvas.timestep_shift
        return 1.0 if shift is None else shift[:, self.block]


def _step_times(step: int, steps: Tensor, shift: Tensor | float, num_masked: Tensor) -> StepTimes:
    """Return times that run from 1 down to T_MIN in equal steps, and then to 0."""
    t, s = ((1 - (1 - T_MIN) * k / steps).clamp_min(T_MIN) for k in (step, step + 1))
    t, s = shift_timesteps(t, shift), shift_timesteps(s, shift)
    return StepTimes(t, torch.where(step + 1 >= steps, 0.0, s), num_masked)


def _score_by_allowed_set(
    logits_at: LogitsAt, now: Canvas, positions: Tensor, step: int
) -> list[tuple[Tensor, Scores]]:
    """Return scores by set of allowed ids, each with its indices into `positions`."""
    owner, steps = now.sample[positions], now.num_steps
    rank, count = rank_within_sample(owner, len(steps))
    progress = (step / steps[owner]).clamp(max=1.0)
    allowed_set = now.allowed_set[positions]
    found = []
    for number in sorted(set(allowed_set.tolist())):
        index = (allowed_set == number).nonzero().squeeze(1)
        allowed = now.allowed[number]
        logits = logits_at(positions[index], allowed).float()
        own, own_rank, own_count, own_progress = (
            to_device(values[index], allowed.device)
            for values in (positions, rank, count, progress)
        )
        scores = Scores(own, allowed, logits, own_rank, own_count, own_progress, number)
        found.append((index, scores))
    return found
