"""Frames of 60 ms are Kaldi's filter bank, stacked."""

import math

import numpy as np
import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.speech_features import LfrFilterBank


def sound(samples, seed=0):
    rng = np.random.default_rng(seed)
    tone = 0.3 * np.sin(2 * math.pi * 440 * np.arange(samples) / 16000)
    return (tone + 0.05 * rng.normal(size=samples)).astype(np.float32)


def by_the_book(wave):
    """The same window by window, from Kaldi's definitions, by a plain Fourier sum in float64."""
    x = wave.astype(np.float64) * 32768
    n = np.arange(400)
    hamming = 0.54 - 0.46 * np.cos(2 * np.pi * n / 399)
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(257), n) / 512)
    edges = np.linspace(*(1127 * np.log(1 + f / 700) for f in (20, 8000)), 82)
    centres = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
    mels = []
    for start in range(0, len(x) - 399, 160):
        window = x[start : start + 400] - x[start : start + 400].mean()
        emphasised = window.copy()
        emphasised[1:] -= 0.97 * window[:-1]
        emphasised[0] -= 0.97 * window[0]
        power = np.abs(fourier @ (emphasised * hamming)) ** 2
        energies = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            up, down = (centres - low) / (middle - low), (high - centres) / (high - middle)
            energies.append(power @ np.clip(np.minimum(up, down), 0, None))
        mels.append(np.log(np.maximum(energies, np.finfo(np.float32).eps)))
    frames = []
    for i in range(math.ceil(len(mels) / 6)):
        near = [min(max(6 * i + k - 3, 0), len(mels) - 1) for k in range(7)]
        frames.append(np.concatenate([mels[k] for k in near]))
    return np.stack(frames)


@pytest.mark.parametrize("samples", [400, 401, 1359, 1360, 5000, 16000])
def test_frames_are_those_by_the_book(samples):
    ours = LfrFilterBank()(torch.from_numpy(sound(samples))[None])[0]
    expected = by_the_book(sound(samples))
    assert ours.shape == expected.shape == (math.ceil((1 + (samples - 400) // 160) / 6), 560)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-3)


def test_a_window_is_that_of_torchaudio():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    wave = torch.from_numpy(sound(16000))
    theirs = kaldi.fbank(
        wave[None] * 2**15, num_mel_bins=80, window_type="hamming", dither=0.0, energy_floor=0.0
    )
    ours = LfrFilterBank()(wave[None])[0].view(-1, 7, 80)
    torch.testing.assert_close(ours[1, 3], theirs[6], atol=2e-3, rtol=0)
    torch.testing.assert_close(ours[0, :3], theirs[:1].expand(3, 80), atol=2e-3, rtol=0)


def test_silence_is_finite_and_a_batch_is_its_rows():
    bank, waves = LfrFilterBank(), torch.from_numpy(np.stack([sound(5000), sound(5000, 1)]))
    together = bank(waves)
    for row, wave in zip(together, waves, strict=True):
        torch.testing.assert_close(row, bank(wave[None])[0])
    assert torch.equal(bank(waves), together)
    assert torch.isfinite(bank(torch.zeros(1, 5000))).all()


def test_less_than_a_window_is_refused():
    with pytest.raises(OmniError, match="399 samples is shorter"):
        LfrFilterBank()(torch.zeros(1, 399))


def test_it_adds_nothing_to_a_state_dict():
    assert not LfrFilterBank().state_dict()
