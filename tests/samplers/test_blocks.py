"""Holes in blocks: everything is filled, from left to right, whatever the steps."""

from dataclasses import replace

import pytest
import torch
from every_sampler import SAMPLERS, name
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.samplers.canvas import Canvas, split_into_blocks
from lightning_omni.samplers.loop import sample

MASK = 9


def canvas_of(blocks, steps):
    """Samples of one given token and blocks; blocks[s] lists the lengths of a sample's blocks."""
    block = [
        h for sizes in blocks for h in [-1, *(i for i, n in enumerate(sizes) for _ in range(n))]
    ]
    sample = [s for s, sizes in enumerate(blocks) for _ in range(1 + sum(sizes))]
    block = torch.tensor(block)
    ids = torch.where(block < 0, 0, MASK)
    widest = max(map(len, blocks))
    num_steps = torch.full((len(blocks), widest), steps)
    row = torch.where(block < 0, -1, 0)
    return Canvas(ids, torch.tensor(sample), block, row, (torch.arange(9),), num_steps, MASK)


def random_denoiser(ids, _):
    rng = torch.Generator().manual_seed(int(ids.sum()))
    return lambda where, allowed: torch.randn(len(where), len(allowed), generator=rng)


@given(
    st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=2), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 8),
    st.sampled_from(SAMPLERS),
)
def test_no_mask_is_left_and_blocks_are_filled_in_order(blocks, steps, size, sampler):
    canvas = split_into_blocks(canvas_of(blocks, steps), size)
    seen = []
    seeds = torch.zeros(len(blocks), dtype=torch.long)
    ids = sample(
        random_denoiser, canvas, sampler, seeds=seeds, on_step=lambda e: seen.append(e.ids)
    )
    assert (ids != MASK).all()
    for state in seen:
        for s in range(len(blocks)):
            mine = canvas.sample == s
            open_blocks = canvas.block[mine & (state == MASK)]
            begun = canvas.block[mine & (state != MASK) & (canvas.block >= 0)]
            if len(open_blocks) and len(begun) and not sampler.remasks:
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
    canvas = split_into_blocks(canvas_of([[length]], steps), size)
    assert canvas.num_steps.tolist() == [want]
    assert torch.bincount(canvas.block[canvas.block >= 0]).tolist() == [
        min(size, length - start) for start in range(0, length, size)
    ]


def own_tokens_denoiser(canvas):
    """Logits from the tokens of the position's own sample only."""
    weights = torch.randn(99, MASK + 1, 9, generator=torch.Generator().manual_seed(3))
    lengths = torch.bincount(canvas.sample)
    index = torch.cat([torch.arange(n) for n in lengths.tolist()])

    def denoise(ids, _):
        counts = torch.zeros(len(lengths), MASK + 1)
        counts.index_put_((canvas.sample, ids), torch.ones(len(ids)), accumulate=True)
        logits = torch.einsum("tv,tvw->tw", counts[canvas.sample] / 3, weights[index])
        return lambda where, allowed: logits[where][:, allowed]

    return denoise


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("size", [None, 1, 2, 5])
def test_a_sample_of_several_holes_or_blocks_is_alone_what_it_is_in_a_batch(sampler, size):
    """Others take steps in blocks and blocks that it has finished, or has not."""
    blocks, steps = [[9, 4], [4, 7], [12], [1, 1]], [9, 2, 5, 1]

    def filled(*chosen):
        canvas = canvas_of([blocks[n] for n in chosen], 1)
        own_steps = torch.tensor([steps[n] for n in chosen])[:, None]
        canvas = replace(canvas, num_steps=own_steps.expand(canvas.num_steps.shape))
        canvas = canvas if size is None else split_into_blocks(canvas, size)
        seeds = torch.tensor(chosen) + 7
        calls, events = [], []
        denoise = own_tokens_denoiser(canvas)

        def counted(ids, places):
            calls.append(1)
            return denoise(ids, places)

        ids = sample(counted, canvas, sampler, seeds=seeds, on_step=events.append)
        asked = torch.stack([e.is_active for e in events]).sum(0).tolist()
        own = [ids[canvas.sample == s].tolist() for s in range(len(chosen))]
        return list(zip(own, asked, strict=True)), len(calls)

    together, _ = filled(0, 1, 2, 3)
    for n in range(4):
        (alone,), calls = filled(n)
        assert together[n] == alone
        assert alone[1] == calls


def test_one_block_is_the_canvas_itself():
    canvas = canvas_of([[5, 3], [4, 2]], 4)
    same = split_into_blocks(canvas, 5)
    assert torch.equal(same.block, canvas.block)
    assert torch.equal(same.num_steps, canvas.num_steps)
