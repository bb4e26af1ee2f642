"""Log-mel spectra: the speech encoder's input and the yardstick of its losses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FLOOR = 1e-4
"""Energies below this count as silence."""


def mel_filters(
    num_mels: int, n_fft: int, sample_rate: int, *, max_hz: float
) -> Float[Tensor, "F M"]:
    """Triangular filters, equally spaced in mel, each of unit area.

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
    """Magnitudes of overlapping Hann frames; T samples give T / hop frames exactly."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N F"]:
        """Spectra of samples in [-1, 1]; T must be a multiple of the hop."""
        pad = self.n_fft - self.hop
        padded = F.pad(wave, (pad // 2, pad - pad // 2))
        frames = padded.unfold(1, self.n_fft, self.hop) * self.window
        magnitudes: Tensor = torch.fft.rfft(frames).abs()
        return magnitudes


class LogMel(nn.Module):
    """Natural logarithm of mel energies, scaled to about [-2.6, 2.6]."""

    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop: int, num_mels: int) -> None:
        super().__init__()
        self.spectrum = MagnitudeSpectrum(n_fft, hop)
        filters = mel_filters(num_mels, n_fft, sample_rate, max_hz=sample_rate / 2)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N M"]:
        """Log-mel frames of samples in [-1, 1], in float32 also under autocast."""
        with torch.autocast(wave.device.type, enabled=False):
            energy: Tensor = self.spectrum(wave.float()) @ self.filters
        return (energy.clamp_min(FLOOR).log() + 4) / 2
