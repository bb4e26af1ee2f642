"""Mel spectra to a waveform: a neural source filter and an inverse short-time transform."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from lightning_omni.pretrained import Pretrained

DECODED_RATE = 22_050
"""Samples of decoded speech per second."""
UPSAMPLE_RATES, N_FFT, _HOP = (8, 8), 16, 4
DECODED_HOP = math.prod(UPSAMPLE_RATES) * _HOP
"""Samples of a spectrum."""
KERNELS, SOURCE_KERNELS, DILATIONS = (3, 7, 11), (7, 11), (1, 3, 5)
"""Kernel sizes of the residual blocks of a level, of the source's, and dilations of each."""
SINE_SIZE, NOISE_SIZE, LEAST_HZ, LIMIT = 0.1, 0.003, 10.0, 0.99
_SLOPE, _MAX_MAGNITUDE, _SMALL = 0.1, 1e2, 1e-9


class Snake(nn.Module):
    """x + sin²(αx) / α with one α per channel.

    Args:
        channels: Number of channels.

    Source: arXiv:2006.08195.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        """Activate."""
        alpha = self.alpha[:, None]
        return x + (x * alpha).sin().square() / (alpha + _SMALL)


class SnakeResBlock(nn.Module):
    """Pairs of convolutions with residuals, the first of each pair dilated.

    Args:
        channels: Number of channels.
        kernel_size: Size of all kernels.
        dilations: Dilation of each pair.
    """

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def convolutions(of: tuple[int, ...]) -> nn.ModuleList:
            pads = [(kernel_size - 1) * dilation // 2 for dilation in of]
            return nn.ModuleList(
                nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=pad)
                for dilation, pad in zip(of, pads, strict=True)
            )

        self.convs1 = convolutions(dilations)
        self.convs2 = convolutions((1,) * len(dilations))
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        """Transform."""
        pairs = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for first, dilated, second, plain in pairs:
            x = x + plain(second(dilated(first(x))))
        return x


class PitchPredictor(nn.Module):
    """Fundamental frequency of each spectrum, in Hz.

    Args:
        num_mels: Bands of a spectrum.
        channels: Channels between the convolutions.
    """

    def __init__(self, num_mels: int, channels: int) -> None:
        super().__init__()
        sizes = [num_mels] + 5 * [channels]
        layers: list[nn.Module] = []
        for before, size in pairwise(sizes):
            layers += [nn.Conv1d(before, size, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, spectra: Float[Tensor, "B M F"]) -> Float[Tensor, "B F"]:
        """Predict."""
        hidden = self.condnet(spectra).transpose(1, 2)
        pitch: Tensor = self.classifier(hidden).squeeze(-1).abs()
        return pitch


class HarmonicSource(nn.Module):
    """Sines of a pitch and its harmonics while there is a voice, noise elsewhere, as one sound.

    Args:
        num_harmonics: Harmonics beside the pitch.

    Source: neural source-filter models, arXiv:1904.12088, section III.
    """

    def __init__(self, num_harmonics: int) -> None:
        super().__init__()
        self.l_linear = nn.Linear(num_harmonics + 1, 1)

    def forward(self, pitch: Float[Tensor, "B T"], rng: Generator) -> Float[Tensor, "B T"]:
        """Return the sound of a pitch in Hz at every sample.

        All sounds of a batch have the same noise. It is drawn on the CPU and copied to the pitch's
        device, so that a seed gives the same noise on every device; that copy waits for the device.

        Args:
            pitch: Fundamental frequency at every sample.
            rng: Generator on the CPU.
        """
        count = self.l_linear.in_features
        multiple = torch.arange(1, count + 1, dtype=pitch.dtype, device=pitch.device)
        # in double precision, as a clip of a minute has thousands of periods
        turns = (pitch[:, None].double() * multiple[:, None] / DECODED_RATE).cumsum(-1) % 1
        phase = (torch.rand(1, count, 1, generator=rng) * 2 - 1) * math.pi
        phase[:, 0] = 0
        noise = torch.randn(1, count, pitch.shape[1], generator=rng).to(pitch)
        sines = SINE_SIZE * torch.sin(2 * math.pi * turns.to(pitch.dtype) + phase.to(pitch))
        is_voiced = (pitch > LEAST_HZ).to(pitch.dtype)[:, None]
        size = is_voiced * NOISE_SIZE + (1 - is_voiced) * SINE_SIZE / 3
        mixed = self.l_linear((sines * is_voiced + size * noise).transpose(1, 2))
        return torch.tanh(mixed).squeeze(-1)


class Hift(Pretrained):
    """HiFTNet: spectra to samples; its weights have the published names, norms folded in.

    Args:
        num_mels: Bands M of a spectrum.
        channels: Channels of the deepest level, halved by each upsampling.
        num_harmonics: See `HarmonicSource`.
        pitch_channels: See `PitchPredictor`.

    Source: HiFTNet, arXiv:2309.09493; rates and kernels: CosyVoice, arXiv:2407.05407.
    """

    window: Tensor

    def __init__(
        self, num_mels: int, channels: int, num_harmonics: int, pitch_channels: int
    ) -> None:
        super().__init__()
        self.m_source = HarmonicSource(num_harmonics)
        self.conv_pre = nn.Conv1d(num_mels, channels, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        self.source_downs, self.source_resblocks = nn.ModuleList(), nn.ModuleList()
        for level, rate in enumerate(UPSAMPLE_RATES):
            before, size = channels >> level, channels >> (level + 1)
            self.ups.append(
                nn.ConvTranspose1d(before, size, 2 * rate, rate, padding=(rate + 1) // 2)
            )
            down = math.prod(UPSAMPLE_RATES[level + 1 :])
            shape = (1, 1, 0) if down == 1 else (2 * down, down, down // 2)
            self.source_downs.append(nn.Conv1d(N_FFT + 2, size, *shape))
            self.source_resblocks.append(SnakeResBlock(size, SOURCE_KERNELS[level], DILATIONS))
            self.resblocks.extend(SnakeResBlock(size, kernel, DILATIONS) for kernel in KERNELS)
        self.conv_post = nn.Conv1d(channels >> len(UPSAMPLE_RATES), N_FFT + 2, 7, padding=3)
        self.f0_predictor = PitchPredictor(num_mels, pitch_channels)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, spectra: Float[Tensor, "B M F"], rng: Generator) -> Float[Tensor, "B T"]:
        """Return samples in [-0.99, 0.99], T = 256 F.

        Args:
            spectra: Log-mel spectra.
            rng: Generator on the CPU that draws the source's noise.
        """
        pitch = self.f0_predictor(spectra).repeat_interleave(DECODED_HOP, dim=1)
        source = self._transform(self.m_source(pitch, rng))
        x = self.conv_pre(spectra)
        levels = zip(self.ups, self.source_downs, self.source_resblocks, strict=True)
        for level, (up, down, source_block) in enumerate(levels):
            x = up(F.leaky_relu(x, _SLOPE))
            if level == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + source_block(down(source))
            blocks = list(self.resblocks)[level * len(KERNELS) :][: len(KERNELS)]
            x = torch.stack([block(x) for block in blocks]).mean(0)
        magnitude, phase = self.conv_post(F.leaky_relu(x)).split(N_FFT // 2 + 1, dim=1)
        spectrum = torch.polar(magnitude.exp().clamp_max(_MAX_MAGNITUDE), phase.sin())
        wave = torch.istft(spectrum, N_FFT, _HOP, window=self.window)
        return wave.clamp(-LIMIT, LIMIT)

    def _transform(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B C N"]:
        """Return real parts, then imaginary parts, of a short-time transform."""
        spectrum = torch.stft(wave, N_FFT, _HOP, window=self.window, return_complex=True)
        return torch.cat((spectrum.real, spectrum.imag), dim=1)
