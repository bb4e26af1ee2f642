"""Encoder and decoder of the mel codec: log-mel frames in, waveforms by inverse STFT out.

The inverse STFT head follows Vocos, arXiv:2306.00814.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_omni.nn.cpu import without_autocast
from lightning_omni.pretrained import Pretrained

FLOOR = 1e-4
"""Lower bound of mel energies before the logarithm."""


def mel_filters(
    num_mels: int, n_fft: int, sample_rate: int, *, max_hz: float
) -> Float[Tensor, "F M"]:
    """Return triangular filters, equally spaced on the mel scale, each of unit area.

    Args:
        num_mels: Number of filters M.
        n_fft: Transform size in samples; there are F = n_fft / 2 + 1 frequency bins.
        sample_rate: Sample rate in Hz.
        max_hz: Upper edge of the last filter in Hz.

    Source: Slaney's Auditory Toolbox, Interval technical report 1998-010.
    """

    def to_mel(hz: float) -> float:
        return hz / (200 / 3) if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    mel = torch.linspace(0, to_mel(max_hz), num_mels + 2, dtype=torch.float64)
    hz = torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2])
    falling = (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    filters = torch.minimum(rising, falling).clamp_min(0) * 2 / (hz[2:] - hz[:-2])
    return filters.float()


class MagnitudeSpectrum(nn.Module):
    """Magnitude spectrogram with Hann windows; T samples give exactly T / hop frames.

    Args:
        n_fft: Transform and window size in samples.
        hop: Distance of frames in samples.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N F"]:
        """Transform samples in [-1, 1]; T must be a multiple of the hop."""
        pad = self.n_fft - self.hop
        padded = F.pad(wave, (pad // 2, pad - pad // 2))
        frames = padded.unfold(1, self.n_fft, self.hop) * self.window
        magnitudes: Tensor = torch.fft.rfft(frames).abs()
        return magnitudes


class LogMel(nn.Module):
    """Log-mel spectrogram, scaled to about [-2.6, 2.6].

    Args:
        sample_rate: Sample rate in Hz.
        n_fft: Transform and window size in samples.
        hop: Distance of frames in samples.
        num_mels: Number of mel filters M.
    """

    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop: int, num_mels: int) -> None:
        super().__init__()
        self.spectrum = MagnitudeSpectrum(n_fft, hop)
        filters = mel_filters(num_mels, n_fft, sample_rate, max_hz=sample_rate / 2)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N M"]:
        """Transform samples in [-1, 1]; float32 also under autocast."""
        with without_autocast(wave.device.type):
            energy: Tensor = self.spectrum(wave.float()) @ self.filters
        return (energy.clamp_min(FLOOR).log() + 4) / 2


class FrameBlock(nn.Module):
    """Residual block that mixes each frame with its two neighbours at distance `dilation`."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(3 * width, width)
        self.contract = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Transform frames."""
        h = self.norm(x)
        padded = F.pad(h, (0, 0, self.dilation, self.dilation))
        before, after = padded[:, : x.shape[1]], padded[:, 2 * self.dilation :]
        mixed = self.contract(F.gelu(self.expand(torch.cat((before, h, after), dim=-1))))
        out: Tensor = x + self.gain * mixed
        return out


def _frame_blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(FrameBlock(width, 1 + i % 3) for i in range(count)))


class MelFrameEncoder(Pretrained):
    """Encode a waveform to latent frames at 25 Hz, a quarter of the log-mel rate.

    Args:
        sample_rate: Sample rate of the waveform in Hz.
        width: Width of frames at 50 and 25 Hz; frames at 100 Hz have three quarters of it.
        blocks: Number of residual blocks at 100, 50 and 25 Hz.
        latent_dim: Size of a latent frame.
    """

    def __init__(self, sample_rate: int, width: int, blocks: list[int], latent_dim: int) -> None:
        super().__init__()
        self.hop_length = sample_rate // 25
        narrow = width * 3 // 4
        hop = sample_rate // 100
        self.log_mel = LogMel(sample_rate, n_fft=4 * hop, hop=hop, num_mels=80)
        self.inp = nn.Linear(80, narrow)
        self.fine = _frame_blocks(narrow, blocks[0])
        self.to_middle = nn.Linear(2 * narrow, width)
        self.middle = _frame_blocks(width, blocks[1])
        self.to_coarse = nn.Linear(2 * width, width)
        self.coarse = _frame_blocks(width, blocks[2])
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent_dim))

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N D"]:
        """Encode samples; T must be a multiple of `hop_length`."""
        h = self.fine(self.inp(self.log_mel(wave)))
        h = self.middle(self.to_middle(h.unflatten(1, (-1, 2)).flatten(2)))
        h = self.coarse(self.to_coarse(h.unflatten(1, (-1, 2)).flatten(2)))
        out: Tensor = self.out(h)
        return out


class SpectrumFrameDecoder(Pretrained):
    """Decode latent frames to a waveform by a log-mel estimate and an inverse STFT.

    Args:
        sample_rate: Sample rate of the waveform in Hz.
        width: Width of the frames.
        blocks: Number of residual blocks at 25, 50 and 100 Hz, and after the log-mel estimate.
        latent_dim: Size of a latent frame.
    """

    window: Tensor

    def __init__(self, sample_rate: int, width: int, blocks: list[int], latent_dim: int) -> None:
        super().__init__()
        self.hop = sample_rate // 100
        self.n_fft = 4 * self.hop
        self.inp = nn.Linear(latent_dim, width)
        self.coarse = _frame_blocks(width, blocks[0])
        self.to_middle = nn.Linear(width, 2 * width)
        self.middle = _frame_blocks(width, blocks[1])
        self.to_fine = nn.Linear(width, 2 * width)
        self.fine = _frame_blocks(width, blocks[2])
        self.mel_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 80))
        self.mel_in = nn.Linear(80, width)
        self.last = _frame_blocks(width, blocks[3])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.n_fft + 2))
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def forward(
        self, latents: Float[Tensor, "B N D"]
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B K M"]]:
        """Return samples and the log-mel estimate."""
        h = self.coarse(self.inp(latents))
        h = self.middle(self.to_middle(h).unflatten(2, (2, -1)).flatten(1, 2))
        h = self.fine(self.to_fine(h).unflatten(2, (2, -1)).flatten(1, 2))
        mel = self.mel_head(h)
        h = self.last(h + self.mel_in(mel))
        return self._inverse(self.head(h).float()), mel.float()

    def _inverse(self, spectrum: Float[Tensor, "B K F"]) -> Float[Tensor, "B T"]:
        """Convert log-magnitudes and phases to samples by overlap-add; each frame gives one hop."""
        log_magnitude, phase = spectrum.chunk(2, dim=-1)
        magnitude = log_magnitude.clamp(-12, 5).exp()
        frames = torch.fft.irfft(torch.polar(magnitude, phase), n=self.n_fft) * self.window
        batch, count, _ = frames.shape
        ratio = self.n_fft // self.hop
        hops = frames.unflatten(2, (ratio, self.hop))
        total = frames.new_zeros(batch, count + ratio - 1, self.hop)
        for i in range(ratio):
            total[:, i : i + count] += hops[:, :, i]
        start = (self.n_fft - self.hop) // 2
        wave = total.flatten(1)[:, start : start + count * self.hop]
        samples: Tensor = wave / (self.window.square().sum() / self.hop)
        return samples
