"""Holes that grow while they are filled: laws that hold for every sampler."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from every_sampler import SAMPLERS, name
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_omni.errors import OmniError
from lightning_omni.samplers.canvas import Canvas, in_blocks
from lightning_omni.samplers.confidence import Confidence
from lightning_omni.samplers.growth import Growing, Growth
from lightning_omni.samplers.klass import KLASS
from lightning_omni.samplers.loop import fill

END, PAD, MASK, VOCAB = 9, 8, 10, 11
SEEDS = torch.tensor([7, 8, 9])
EAGER = Growth(masks=3, window=2, append_below=0.4, insert_below=1.0, unsure=0.25, longest=14)


def canvas_of(prompts, holes, steps):
    """Samples `[prompt] + [hole] + [a closing token]`."""
    ids, hole, sample = [], [], []
    for n, (prompt, size) in enumerate(zip(prompts, holes, strict=True)):
        ids += [*prompt, *[MASK] * size, 7]
        hole += [*[-1] * len(prompt), *[0] * size, -1]
        sample += [n] * (len(prompt) + size + 1)
    hole = torch.tensor(hole)
    grammar = torch.where(hole < 0, -1, 0)
    allowed = (torch.arange(10),)
    num_steps = torch.tensor(steps)[:, None]
    canvas = Canvas(
        torch.tensor(ids), torch.tensor(sample), hole, grammar, allowed, num_steps, MASK
    )
    return replace(canvas, ends=(END, PAD), pad_token_id=PAD)


def toy_denoiser(canvas, scale=1.0):
    """Logits from the tokens of the position's own sample only; it refuses a stale layout."""
    weights = torch.randn(64, VOCAB, VOCAB, generator=torch.Generator().manual_seed(3)) * scale
    sample, num_samples = canvas.sample, len(canvas.num_steps)
    lengths = torch.bincount(sample, minlength=num_samples)
    index = torch.cat([torch.arange(n) for n in lengths.tolist()])

    def denoise(ids, _):
        assert len(ids) == len(sample)
        counts = torch.zeros(num_samples, VOCAB).index_put_(
            (sample, ids), torch.ones(len(ids)), accumulate=True
        )
        logits = torch.einsum("tv,tvw->tw", counts[sample] / 4, weights[index])
        return lambda where, allowed: logits[where][:, allowed]

    return denoise


def run(canvas, sampler, seeds, growth=EAGER, denoiser=toy_denoiser):
    """The filled canvas and the events on the way."""
    events = []
    growing = Growing(growth, (END, PAD), denoiser)
    ids = fill(
        denoiser(canvas), canvas, sampler, seeds=seeds, on_step=events.append, growing=growing
    )
    last = next((e.grown.canvas for e in reversed(events) if e.grown is not None), canvas)
    return replace(last, ids=ids), events


PROMPTS, HOLES, STEPS = [[1, 2], [5], [7, 7, 7]], [5, 2, 8], [5, 2, 3]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_holes_end_without_masks_and_within_the_longest_and_given_tokens_keep_their_order(sampler):
    before = canvas_of(PROMPTS, HOLES, STEPS)
    after, events = run(before, sampler, SEEDS)
    assert any(e.grown is not None for e in events)
    assert (after.ids != MASK).all()
    lengths = torch.bincount(after.sample[after.hole >= 0])
    assert (lengths <= EAGER.longest).all()
    assert (lengths >= torch.tensor(HOLES)).all()
    for n in range(3):
        seen = [c.ids[(c.sample == n) & (c.hole < 0)].tolist() for c in (before, after)]
        assert seen[0] == seen[1]
        own = after.hole[after.sample == n].tolist()
        assert own == [-1] * len(PROMPTS[n]) + [0] * int(lengths[n]) + [-1]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("block", [None, 3])
def test_the_same_seed_gives_the_same_tokens(sampler, block):
    canvas = canvas_of(PROMPTS[:1], HOLES[:1], STEPS[:1])
    canvas = canvas if block is None else in_blocks(canvas, block)
    found = [run(canvas, sampler, SEEDS[:1])[0].ids for _ in range(2)]
    assert torch.equal(*found)
    assert (found[0] != MASK).all()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("block", [None, 1, 3])
def test_a_sample_alone_and_beside_others_that_grow_gives_the_same_tokens(sampler, block):
    def blocks_of(canvas):
        return canvas if block is None else in_blocks(canvas, block)

    together, events = run(blocks_of(canvas_of(PROMPTS, HOLES, STEPS)), sampler, SEEDS)
    grew = torch.cat([e.grown.canvas.sample[e.grown.source < 0] for e in events if e.grown])
    assert len(grew.unique()) > 1
    for n in range(3):
        own = slice(n, n + 1)
        canvas = blocks_of(canvas_of(PROMPTS[own], HOLES[own], STEPS[own]))
        alone, _ = run(canvas, sampler, SEEDS[own])
        assert torch.equal(alone.ids, together.ids[together.sample == n])


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 8),
    st.integers(2, 6),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(SAMPLERS),
)
@settings(deadline=None)
def test_in_blocks_too_no_mask_is_left(holes, steps, size, masks, low, unsure, sampler):
    canvas = canvas_of([[1]] * len(holes), holes, [steps] * len(holes))
    growth = replace(EAGER, masks=masks, append_below=low, unsure=unsure)
    after, _ = run(in_blocks(canvas, size), sampler, SEEDS[: len(holes)], growth)
    assert (after.ids != MASK).all()
    assert (torch.bincount(after.sample[after.hole >= 0]) <= 14).all()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_a_hole_that_holds_given_tokens_does_not_grow(sampler):
    canvas = canvas_of([[1, 2]], [5], [5])
    canvas.ids[4] = 3
    after, events = run(canvas, sampler, SEEDS[:1])
    assert all(e.grown is None for e in events)
    assert after.ids[4] == 3


def test_masks_in_a_request_are_no_part_of_the_hole():
    growth = Growth(masks=2, window=2, longest=20)
    canvas = canvas_of([[MASK, 5, MASK]], [2], [2])
    after, events = run(canvas, Confidence(), SEEDS[:1], growth, scripted(answer_of(9, 1)))
    assert sum(e.grown is not None for e in events) == 3
    assert after.ids[:3].tolist() == [MASK, 5, MASK]
    assert after.num_steps.tolist() == [[2 + 3 * (1 + 2)]]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_a_hole_that_is_as_long_as_the_longest_is_filled_as_without_growth(sampler):
    canvas = canvas_of(PROMPTS, HOLES, STEPS)
    growing, _ = run(canvas, sampler, SEEDS, replace(EAGER, longest=1))
    assert torch.equal(growing.ids, fill(toy_denoiser(canvas), canvas, sampler, seeds=SEEDS))


def scripted(said):
    """Always the same probabilities by place: `said(length)` lists (token, probability)."""

    def denoiser(canvas):
        table = said(len(canvas.ids))

        def logits_at(where, allowed):
            p = torch.full((len(table), len(allowed)), 1e-9)
            for place, (token, probability) in enumerate(table):
                p[place] = (1 - probability) / (len(allowed) - 1)
                p[place, token] = probability
            return p[where].log()

        return lambda *_: logits_at

    return denoiser


def answer_of(length, room):
    """Content for `length` places, and the end behind it."""
    return lambda size: [(1, 0.9)] * length + [(END, 0.99)] + [(END, 0.95)] * (room + size - length)


def test_masks_are_appended_until_the_tail_is_sure_to_be_the_end_and_meanwhile_none_is_filled():
    canvas = canvas_of([[]], [2], [2])
    growth = Growth(masks=2, window=2, longest=20)
    after, events = run(canvas, Confidence(), SEEDS[:1], growth, scripted(answer_of(6, 1)))
    sizes = [len(e.ids) - 1 for e in events if e.grown is not None]
    assert sizes == [4, 6, 8]
    assert [len(e.where) for e in events[:3]] == [0, 0, 0]
    assert after.ids.tolist()[:8] == [1] * 6 + [END, PAD]


def test_the_least_probable_mask_becomes_several_where_it_stands():
    def said(size):
        return (
            [(1, 0.9), (2, 0.13 if size == 6 else 0.8), (3, 0.12 if size == 6 else 0.8)]
            + [(4, 0.8)] * (size - 6)
            + [(END, 0.7)] * 3
        )

    canvas = canvas_of([[]], [5], [5])
    growth = Growth(masks=4, window=2, unsure=0.15, longest=20)
    after, events = run(canvas, Confidence(), SEEDS[:1], growth, scripted(said))
    assert [e.grown is not None for e in events][:2] == [True, False]
    assert events[0].grown.source.tolist() == [0, 1, 2, -1, -1, -1, 3, 4, 5]
    assert events[0].ids.tolist() == [MASK] * 8 + [7]
    assert after.ids.tolist()[:6] == [1, 2, 3, 4, 4, 4]


def test_a_step_that_sees_a_hole_grow_is_given_back_and_steps_keep_their_pace():
    canvas = canvas_of([[]], [4], [2])
    growth = Growth(masks=4, window=2, longest=8)
    after, events = run(canvas, Confidence(), SEEDS[:1], growth, scripted(answer_of(20, 1)))
    assert after.num_steps.tolist() == [[2 + 1 + 2]]
    assert [len(e.where) for e in events] == [0, 1, 2, 2, 3]  # the released schedule rounds down


def test_what_a_sampler_remembers_of_a_sample_moves_with_it():
    """The first sample grows at the first step; the second must settle as it would alone."""

    def denoiser(canvas):
        def logits_at(where, allowed):
            p = torch.full((len(where), len(allowed)), 0.001)
            is_second = canvas.sample[where] == 1
            is_first = torch.arange(len(canvas.ids))[where] == 0
            p[is_second, 3] = 0.99
            p[~is_second, END] = 0.99
            p[is_first] = 0.1
            return p.log()

        return lambda *_: logits_at

    growth = Growth(masks=3, window=1, append_below=0.0, insert_below=1.0, unsure=0.15, longest=6)
    canvas = canvas_of([[], []], [4, 4], [4, 4])
    _, events = run(canvas, KLASS(0.9, 0.01), SEEDS[:2], growth, denoiser)
    assert events[0].grown is not None
    sample = events[0].grown.canvas.sample
    changed = [int((sample[e.where] == 1).sum()) for e in events[:2]]
    assert changed == [1, 3]


@pytest.mark.parametrize(
    "wrong", [{"start": 0.0}, {"masks": 1}, {"window": 0}, {"unsure": 1.5}, {"longest": 0}]
)
def test_numbers_out_of_range_are_named(wrong):
    with pytest.raises(OmniError, match=f"grow.{next(iter(wrong))}"):
        partial(Growth, **wrong)()
