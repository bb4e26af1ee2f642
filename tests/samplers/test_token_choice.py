"""Noise and choice of tokens follow the distributions they claim."""

import pytest
import torch

from lightning_omni.samplers.noise import Noise, NoisePurpose
from lightning_omni.samplers.token_choice import choose_token, gumbel_noise

DRAWS = 100_000


def streams(count):
    """As many samples of one token as wanted."""
    where = torch.arange(count)
    return Noise.for_samples(where, where), where


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_in_proportion_to_their_probability(temperature):
    logits = torch.tensor([2.0, 0.5, 0.0, -1.0])
    noise, where = streams(DRAWS)
    column = choose_token(
        logits.expand(DRAWS, 4), temperature=temperature, noise=noise, positions=where
    )
    wanted = DRAWS * (logits / temperature).softmax(0)
    chi_square = ((torch.bincount(column, minlength=4) - wanted) ** 2 / wanted).sum()
    assert chi_square < 16.3  # 99.9 % of draws with 3 degrees of freedom


def test_at_temperature_zero_the_likeliest_token_is_taken(rng):
    logits = torch.randn(50, 7, generator=rng)
    noise, where = streams(50)
    column = choose_token(logits, temperature=0.0, noise=noise, positions=where)
    assert torch.equal(column, logits.argmax(-1))


def test_gumbel_noise_is_finite_with_the_mean_and_spread_of_its_law():
    streams_of, where = streams(DRAWS)
    noise = gumbel_noise(streams_of.uniform(where, NoisePurpose.ORDER))
    assert torch.isfinite(noise).all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert noise.std() == pytest.approx(torch.pi / 6**0.5, abs=0.02)
