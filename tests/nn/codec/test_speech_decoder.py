"""Parts of the decoder from speech codes to a waveform, against formulas written out."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_omni.interop.glm4_voice import fold_weight_norms
from lightning_omni.interop.meta_init import MetaInit
from lightning_omni.nn.codec import block_conformer
from lightning_omni.nn.codec.block_conformer import (
    BlockConformer,
    RelativeAttention,
    encode_distances,
)
from lightning_omni.nn.codec.flow_unet import FlowUnet, UnetAttention
from lightning_omni.nn.codec.hift import HarmonicSource, Hift, Snake
from lightning_omni.nn.codec.speech_flow import ConditionalFlow, LengthRegulator, SpeechFlow


@pytest.mark.parametrize("queries_at_once", [512, 2])
def test_scores_of_relative_attention_are_content_and_distance(rng, monkeypatch, queries_at_once):
    monkeypatch.setattr(block_conformer, "MAX_QUERIES", queries_at_once)
    attention = RelativeAttention(8, 2)
    x = torch.randn(1, 5, 8, generator=rng)
    allowed = torch.ones(5, 5).tril().bool()
    with torch.no_grad():
        ours = attention(x, encode_distances(x), allowed)[0]
        query, key, value = (
            getattr(attention, f"linear_{name}")(x[0]).view(5, 2, 4) for name in "qkv"
        )
        mixed = torch.zeros(5, 2, 4)
        for i in range(5):
            for head in range(2):
                scores = []
                for j in range(i + 1):
                    angle = (i - j) * 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
                    waves = torch.stack((angle.sin(), angle.cos()), -1).flatten()
                    distance = attention.linear_pos(waves).view(2, 4)[head]
                    by_content = (query[i, head] + attention.pos_bias_u[head]) @ key[j, head]
                    by_distance = (query[i, head] + attention.pos_bias_v[head]) @ distance
                    scores.append((by_content + by_distance) / 2)
                weights = torch.stack(scores).softmax(0)
                mixed[i, head] = weights @ value[: i + 1, head]
        expected = attention.linear_out(mixed.flatten(1))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_a_block_of_codes_sees_itself_and_what_is_before(rng):
    encoder = BlockConformer(6, 8, 2, 12, 2, block_size=4)
    x = torch.randn(1, 10, 6, generator=rng)
    changed = x.clone()
    changed[:, 6] += 1
    one, two = encoder(x), encoder(changed)
    torch.testing.assert_close(one[:, :4], two[:, :4], atol=1e-6, rtol=0)
    assert (one[:, 4:] - two[:, 4:]).abs().amax(-1).min() > 1e-4  # its own block, and later ones


def test_wide_heads_are_torch_s_attention(rng):
    ours = UnetAttention(8, 2, 4)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([p.weight for p in (ours.to_q, ours.to_k, ours.to_v)])
        )
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(ours.to_out[0].state_dict())
    x = torch.randn(2, 7, 8, generator=rng)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_a_velocity_has_the_shape_of_the_spectra_at_any_length(rng, length):
    unet = FlowUnet(24, 6, [16, 24], 1, 1, 2, 4)
    x = torch.randn(2, 6, length, generator=rng)
    condition = torch.randn(2, 18, length, generator=rng)
    early, late = (unet(x, condition, torch.full((2,), t)) for t in (0.1, 0.9))
    assert early.shape == x.shape
    assert not torch.allclose(early, late)


class Straight(nn.Module):
    """The velocity to a target: the condition, or zero without one."""

    def forward(self, x, condition, t):
        return (condition - x) / (1 - t[:, None, None])


def test_the_flow_ends_at_the_target_of_a_straight_field_and_guidance_goes_beyond(rng):
    noise, target = torch.randn(2, 1, 4, 3, generator=rng)
    plain = ConditionalFlow(Straight(), 0.0)(noise, target, 10)
    torch.testing.assert_close(plain, target, atol=1e-5, rtol=1e-5)
    guided = ConditionalFlow(Straight(), 0.7)(noise, target, 10)
    torch.testing.assert_close(guided, 1.7 * target, atol=1e-5, rtol=1e-5)


def test_times_of_the_flow_are_a_cosine_s():
    seen = []

    class Record(nn.Module):
        def forward(self, x, condition, t):
            seen.append(float(t[0]))
            return torch.zeros_like(x)

    ConditionalFlow(Record(), 0.7)(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), 10)
    np.testing.assert_allclose(seen, 1 - np.cos(np.arange(10) / 10 * math.pi / 2), atol=1e-6)


def test_frames_are_repeated_to_the_number_of_spectra():
    regulator = LengthRegulator(2)
    regulator.model = nn.Identity()
    frames = torch.arange(6.0).view(1, 3, 2)
    repeated = regulator(frames, 7)[0, 0]
    assert repeated.tolist() == [0, 0, 0, 2, 2, 4, 4]  # floor(i * 3 / 7)


@pytest.mark.parametrize("length", [2, 9])
def test_a_spectrum_becomes_256_samples(rng, length):
    vocoder = Hift(8, 16, 2, 4)
    wave = vocoder(torch.randn(2, 8, length, generator=rng), torch.Generator().manual_seed(0))
    assert wave.shape == (2, 256 * length)
    assert wave.abs().max() <= 0.99


def test_the_source_sings_its_pitch_and_hisses_where_there_is_none():
    source = HarmonicSource(0)
    with torch.no_grad():
        source.l_linear.weight.fill_(1)
        source.l_linear.bias.zero_()
    pitch = torch.tensor([[441.0], [0.0]]).expand(2, 22_050)
    sung, hissed = source(pitch, torch.Generator().manual_seed(0)).detach().numpy()
    spectrum = np.abs(np.fft.rfft(sung))
    assert spectrum.argmax() == 441
    assert abs(sung.std() - 0.1 / math.sqrt(2)) < 0.002
    assert abs(hissed.std() - 0.1 / 3) < 0.002


def test_snake_is_its_formula(rng):
    snake = Snake(3)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = torch.randn(1, 3, 4, generator=rng)
    alpha = snake.alpha.detach()[:, None]
    torch.testing.assert_close(snake(x).detach(), x + torch.sin(alpha * x) ** 2 / alpha)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_folded_weight_is_the_one_that_torch_computes(is_transposed):
    layer = weight_norm((nn.ConvTranspose1d if is_transposed else nn.Conv1d)(3, 5, 4))
    named = {f"up.{name}": value for name, value in layer.state_dict().items()}
    for old in (False, True):
        if old:
            endings = {"original0": "weight_g", "original1": "weight_v"}
            named = {
                f"up.{endings.get(name.rpartition('.')[2], 'bias')}": value
                for name, value in named.items()
            }
        folded = fold_weight_norms(named)
        assert set(folded) == {"up.weight", "up.bias"}
        torch.testing.assert_close(folded["up.weight"], layer.weight.detach())


def test_networks_at_full_size_have_the_published_numbers_of_weights():
    with MetaInit():
        conformer = BlockConformer(512, 512, 8, 2048, 6, 10)
        unet = FlowUnet(320, 80, [256, 256], 4, 12, 8, 64)
        flow = SpeechFlow(16_384, 512, 80, 192, 12.5, conformer, ConditionalFlow(unet, 0.7))
        vocoder = Hift(80, 512, 8, 512)
    count = sum(p.numel() for p in flow.parameters())
    assert count == 111_166_208
    tensors = len(flow.state_dict())
    assert 0 < 445_171_500 - 4 * count < 1000 * tensors  # bytes of `flow.pt`: values and headers
    assert sum(p.numel() for p in vocoder.parameters()) == 20_447_517
    assert [flow.num_spectra(n) for n in (1, 2, 64, 375)] == [6, 13, 441, 2583]
