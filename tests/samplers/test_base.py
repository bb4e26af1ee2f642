"""Noise and choice of tokens follow the distributions they claim."""

import pytest
import torch

from lightning_omni.samplers.base import choose, gumbel
from lightning_omni.samplers.canvas import most_confident
from lightning_omni.samplers.noise import Noise, Use

DRAWS = 100_000


def streams(count):
    """As many samples of one token as wanted."""
    where = torch.arange(count)
    return Noise.for_samples(where, where), where


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_in_proportion_to_their_probability(temperature):
    logits = torch.tensor([2.0, 0.5, 0.0, -1.0])
    noise, where = streams(DRAWS)
    column = choose(logits.expand(DRAWS, 4), temperature=temperature, noise=noise, positions=where)
    wanted = DRAWS * (logits / temperature).softmax(0)
    chi_square = ((torch.bincount(column, minlength=4) - wanted) ** 2 / wanted).sum()
    assert chi_square < 16.3  # 99.9 % of draws with 3 degrees of freedom


def test_at_temperature_zero_the_likeliest_token_is_taken(rng):
    logits = torch.randn(50, 7, generator=rng)
    noise, where = streams(50)
    column = choose(logits, temperature=0.0, noise=noise, positions=where)
    assert torch.equal(column, logits.argmax(-1))


def test_gumbel_noise_is_finite_with_the_mean_and_spread_of_its_law():
    streams_of, where = streams(DRAWS)
    noise = gumbel(streams_of.uniform(where, Use.ORDER))
    assert torch.isfinite(noise).all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert noise.std() == pytest.approx(torch.pi / 6**0.5, abs=0.02)


def test_of_equal_confidences_the_first_counts_whatever_the_batch():
    confidence = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.1, 0.7, 0.7])
    sample, count = torch.tensor([0, 0, 0, 0, 0, 2, 2]), torch.tensor([2, 3, 1])
    assert most_confident(confidence, sample, count).tolist() == [1, 0, 5]
    many = torch.zeros(3000)
    chosen = most_confident(many, torch.zeros(3000, dtype=torch.int64), torch.tensor([40]))
    assert chosen.tolist() == list(range(40))


def test_no_more_is_committed_than_there_is():
    confidence, sample = torch.tensor([0.1, 0.2]), torch.tensor([0, 1])
    assert most_confident(confidence, sample, torch.tensor([0, 5])).tolist() == [1]
