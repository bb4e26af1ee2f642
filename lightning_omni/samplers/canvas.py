"""The canvas that samplers unmask, its blocks, and what a step hands them: scores and times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_omni.samplers.ranking import rank_within_sample


@dataclass(frozen=True, slots=True)
class Canvas:
    """A batch of samples with masked positions, flat over T tokens, sample after sample.

    Samplers get it on the device of the network, where `allowed` is; otherwise it is on the host.

    Attributes:
        ids: token ids, the mask id where masked, Int[T].
        sample: sample of each token, ascending, Int[T].
        block: block of each token within its sample, -1 outside the response, Int[T]. Blocks are
            unmasked in order; tokens of a block that are not masked stay as they are.
        allowed_set: index into `allowed` of the set that constrains each token, -1 outside the
            response, Int[T].
        allowed: sets of permitted ids, each a sorted Int[G].
        num_steps: denoising steps of each block, Int[S, blocks].
        mask_token_id: id of the mask.
        timestep_shift: shift of the times of each block, Float[S, blocks]; above 1 commits late,
            below 1 early; None is 1.
        ends: ids that end an answer: masks behind one become pads at once. Empty: the steps decide.
        pad_token_id: id written there.
    """

    ids: Tensor
    sample: Tensor
    block: Tensor
    allowed_set: Tensor
    allowed: tuple[Tensor, ...]
    num_steps: Tensor
    mask_token_id: int
    timestep_shift: Tensor | None = None
    ends: tuple[int, ...] = ()
    pad_token_id: int = -1

    def to(self, device: torch.device | str) -> Canvas:
        """Return a copy on a device; `allowed` stays where it is."""
        names = ("ids", "sample", "block", "allowed_set", "num_steps")
        moved: dict[str, Any] = {name: to_device(getattr(self, name), device) for name in names}
        shift = self.timestep_shift
        return replace(
            self, **moved, timestep_shift=shift if shift is None else to_device(shift, device)
        )


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Copy to a device; the host waits only for copies from a device."""
    return values.to(device, non_blocking=torch.device(device).type != "cpu")


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits of masked positions that share one set of allowed ids.

    Attributes:
        positions: their positions on the canvas, ascending, Int[M].
        allowed: ids of the columns, Int[G].
        logits: Float[M, G], in float32.
        rank: index of each among its sample's masked positions, Int[M].
        num_masked: number of masked positions of each one's sample, Int[M].
        progress: share of the block's steps already taken, Float[M], in [0, 1).
        allowed_set: index of the set in `Canvas.allowed`.
    """

    positions: Tensor
    allowed: Tensor
    logits: Tensor
    rank: Tensor
    num_masked: Tensor
    progress: Tensor
    allowed_set: int = 0


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Diffusion times of one step for every sample.

    Attributes:
        t: time before the step, from 1 down, Float[S].
        s: time after it; 0 at a block's last step, Float[S].
        num_masked: number of masked positions, Int[S].
    """

    t: Tensor
    s: Tensor
    num_masked: Tensor


LogitsAt = Callable[[Tensor, Tensor], Tensor]
"""(positions Int[M], allowed Int[G]) -> logits Float[M, G]."""

Denoiser = Callable[[Tensor, Tensor], LogitsAt]
"""(ids Int[T], positions Int[R], ascending) -> the logits at any subset of these positions.

One forward pass over the ids. Ids and positions are on the host, logits on the network's device.
"""


def split_into_blocks(canvas: Canvas, block_size: int) -> Canvas:
    """Split every block into blocks of `block_size` positions, unmasked from left to right.

    Steps are shared out by length, at least one for each block: with fewer steps than blocks there
    are as many forward passes as blocks, and nothing stays masked. The last block may be shorter.

    Args:
        canvas: the canvas; its blocks are numbered in the order in which they are unmasked.
        block_size: positions of a block, at least 1.

    Source: semi-autoregressive sampling of LLaDA, arXiv:2502.09992, and block diffusion,
    arXiv:2503.09573; the sharing of steps is Omni-Diffusion's.
    """
    samples, coarse = canvas.num_steps.shape
    positions = (canvas.block >= 0).nonzero().squeeze(1)
    group = canvas.sample[positions] * coarse + canvas.block[positions]
    order = group.argsort(stable=True)
    rank, length = torch.empty_like(positions), torch.empty_like(positions)
    rank[order], length[order] = rank_within_sample(group[order], samples * coarse)
    longest = int(length.max().item()) if len(positions) else 1
    fine = max(1, -(-longest // block_size))
    index = rank // block_size
    block = canvas.block.clone()
    block[positions] = canvas.block[positions] * fine + index
    counts = torch.bincount(group * fine + index, minlength=samples * coarse * fine)
    lengths = torch.bincount(group, minlength=samples * coarse)[:, None].clamp_min(1)
    share = counts.view(-1, fine) * canvas.num_steps.reshape(-1, 1) // lengths
    num_steps = share.clamp_min(1).view(samples, coarse * fine)
    shift = canvas.timestep_shift
    shift = None if shift is None else shift.repeat_interleave(fine, dim=1)
    return replace(canvas, block=block, num_steps=num_steps, timestep_shift=shift)
