"""Holes in blocks: everything is filled, from left to right, whatever the steps."""

import pytest
import torch
from every_sampler import SAMPLERS
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.samplers.blocks import in_blocks
from lightning_omni.samplers.canvas import Canvas
from lightning_omni.samplers.fill import fill

MASK = 9


def canvas_of(holes, steps):
    """Samples of one given token and holes; holes[s] lists the lengths of a sample's holes."""
    hole = [h for sizes in holes for h in [-1, *(i for i, n in enumerate(sizes) for _ in range(n))]]
    sample = [s for s, sizes in enumerate(holes) for _ in range(1 + sum(sizes))]
    hole = torch.tensor(hole)
    ids = torch.where(hole < 0, 0, MASK)
    widest = max(map(len, holes))
    num_steps = torch.full((len(holes), widest), steps)
    grammar = torch.where(hole < 0, -1, 0)
    return Canvas(ids, torch.tensor(sample), hole, grammar, (torch.arange(9),), num_steps, MASK)


def random_denoiser(ids, _):
    rng = torch.Generator().manual_seed(int(ids.sum()))
    return lambda where, allowed: torch.randn(len(where), len(allowed), generator=rng)


@given(
    st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=2), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 8),
    st.sampled_from(SAMPLERS),
)
def test_no_mask_is_left_and_blocks_are_filled_in_order(holes, steps, size, sampler):
    canvas = in_blocks(canvas_of(holes, steps), size)
    seen = []
    seeds = torch.zeros(len(holes), dtype=torch.long)
    ids = fill(random_denoiser, canvas, sampler, seeds=seeds, on_step=lambda e: seen.append(e.ids))
    assert (ids != MASK).all()
    for state in seen:
        for s in range(len(holes)):
            mine = canvas.sample == s
            open_blocks = canvas.hole[mine & (state == MASK)]
            begun = canvas.hole[mine & (state != MASK) & (canvas.hole >= 0)]
            if len(open_blocks) and len(begun) and not sampler.reopens:
                assert begun.max() <= open_blocks.min()


@pytest.mark.parametrize(
    ("length", "steps", "size", "want"),
    [
        (48, 24, 16, [8, 8, 8]),
        (48, 48, 12, [12] * 4),
        (12, 2, 4, [1, 1, 1]),
        (10, 10, 4, [4, 4, 2]),
    ],
)
def test_steps_are_shared_by_length_and_every_block_has_one(length, steps, size, want):
    canvas = in_blocks(canvas_of([[length]], steps), size)
    assert canvas.num_steps.tolist() == [want]
    assert torch.bincount(canvas.hole[canvas.hole >= 0]).tolist() == [
        min(size, length - start) for start in range(0, length, size)
    ]


def test_one_block_is_the_canvas_itself():
    canvas = canvas_of([[5, 3], [4, 2]], 4)
    same = in_blocks(canvas, 5)
    assert torch.equal(same.hole, canvas.hole)
    assert torch.equal(same.num_steps, canvas.num_steps)
