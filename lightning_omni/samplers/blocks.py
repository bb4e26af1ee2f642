"""Semi-autoregressive filling: a hole is filled block after block, by any sampler."""

from __future__ import annotations

from dataclasses import replace

import torch

from lightning_omni.samplers.canvas import Canvas
from lightning_omni.samplers.ranking import rank_within


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
