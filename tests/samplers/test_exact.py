"""With the exact posterior, samplers that promise a distribution draw from it."""

from dataclasses import replace

import pytest
import torch
from small_world import (
    LENGTH,
    MASK,
    VOCAB,
    WORLD,
    empty_canvas,
    make_joint,
    posterior_denoiser,
)

from lightning_omni.samplers.ancestral import Ancestral
from lightning_omni.samplers.canvas import StepTimes, split_into_blocks
from lightning_omni.samplers.loop import sample
from lightning_omni.samplers.noise import Noise
from lightning_omni.samplers.remdm import ReMDM

DRAWS = 120_000
CHI_SQUARE = 124.8  # 99.9 % of draws with 80 degrees of freedom


def draw(sampler, *, steps, count=DRAWS, block=None):
    canvas = empty_canvas(count, steps=steps)
    canvas = canvas if block is None else split_into_blocks(canvas, block)
    joint = make_joint()
    seeds = torch.arange(count) + 10_000_019
    return sample(posterior_denoiser(joint), canvas, sampler, seeds=seeds).view(-1, LENGTH), joint


def chi_square(drawn, joint):
    found = torch.bincount((drawn * VOCAB ** torch.arange(LENGTH).flip(0)).sum(1), minlength=81)
    wanted = joint * len(drawn)
    return ((found - wanted) ** 2 / wanted).sum().item()


def test_the_world_is_listed_in_the_order_its_sequences_are_counted():
    code = (WORLD * VOCAB ** torch.arange(LENGTH).flip(0)).sum(1)
    assert torch.equal(code, torch.arange(len(WORLD)))


@pytest.mark.parametrize(("block", "count"), [(None, DRAWS), (1, 30_000), (3, 30_000)])
def test_ancestral_samples_follow_the_joint(block, count):
    assert chi_square(*draw(Ancestral(), steps=LENGTH, block=block, count=count)) < CHI_SQUARE


def test_tokens_drawn_all_at_once_do_not():
    assert chi_square(*draw(Ancestral(), steps=1, count=30_000)) > 10 * CHI_SQUARE


@pytest.mark.parametrize(
    "sampler", [ReMDM(0.0), ReMDM(0.05), ReMDM(0.5, "rescale")], ids=["none", "cap", "rescale"]
)
def test_remasking_comes_to_the_joint_as_steps_grow(sampler):
    """What steps of several commits lose falls with the number of steps."""
    lost = [chi_square(*draw(sampler, steps=steps, count=8_000)) for steps in (2, 24)]
    assert lost[1] < 0.05 * lost[0]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    "sampler",
    [ReMDM(0.0), ReMDM(0.1), ReMDM(0.9, "rescale"), ReMDM(0.5, start=0.8, stop=0.3)],
    ids=["none", "cap", "rescale", "window"],
)
def test_remasking_keeps_the_marginals(sampler, shift):
    """At every time each position is masked with probability t, whatever the others are."""
    count, steps = 12_000, 6
    canvas = empty_canvas(count, steps=steps)
    canvas = replace(canvas, timestep_shift=torch.full((count, 1), shift))
    masked = []
    sample(
        posterior_denoiser(make_joint()),
        canvas,
        sampler,
        seeds=torch.arange(count),
        on_step=lambda event: masked.append((event.ids == MASK).view(-1, LENGTH)),
    )
    for step, is_masked in enumerate(masked[:-1], start=1):
        t = 1 - (1 - 1e-3) * step / steps
        t = shift * t / (1 + (shift - 1) * t)
        share = is_masked.double().mean(0)
        error = (t * (1 - t) / count) ** 0.5
        assert ((share - t).abs() < 4.5 * error).all()
        both = (is_masked[:, 0] & is_masked[:, 1]).double().mean()
        assert abs(both - t**2) < 4.5 * (t**2 * (1 - t**2) / count) ** 0.5
    assert not masked[-1].any()


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_remasking_by_confidence_keeps_the_number_of_masks(eta):
    """As many more are committed as are masked again, though not each position alike."""
    count, steps = 6_000, 6
    masked = []
    sample(
        posterior_denoiser(make_joint()),
        empty_canvas(count, steps=steps),
        ReMDM(eta, "confidence"),
        seeds=torch.arange(count),
        on_step=lambda event: masked.append((event.ids == MASK).double().mean().item()),
    )
    for step, share in enumerate(masked[:-1], start=1):
        t = 1 - (1 - 1e-3) * step / steps
        assert abs(share - t) < 4 * (t * (1 - t) / count / LENGTH) ** 0.5
    assert masked[-1] == 0


def test_remasking_by_confidence_is_shared_by_the_softmax_of_minus_the_probability():
    count = 40_000
    canvas = empty_canvas(count, steps=8)
    run = ReMDM(1.0, "confidence").with_fresh_state(canvas)
    p = torch.tensor([0.9, 0.5, 0.1, 0.02]).repeat(count, 1)[:, :LENGTH]
    run.probability = p.flatten()
    every = torch.full((count,), 0.5)
    times = StepTimes(every, every / 2, torch.full((count,), 2))
    where, noise = (
        torch.arange(count * LENGTH),
        Noise.for_samples(torch.arange(count), canvas.sample),
    )
    again = run.remask(canvas, times, where, noise=noise).view(count, LENGTH).double().mean(0)
    wanted = 0.5 * (-p[0].double()).softmax(0)
    assert (again - wanted).abs().max() < 4 * (0.25 / count) ** 0.5


def test_remasking_does_mask_again():
    canvas, events = empty_canvas(50, steps=12), []
    sample(
        posterior_denoiser(make_joint()),
        canvas,
        ReMDM(0.9, "rescale"),
        seeds=torch.arange(50),
        on_step=events.append,
    )
    assert any((e.ids[e.positions] == MASK).any() for e in events)
