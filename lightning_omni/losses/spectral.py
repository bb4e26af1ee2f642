"""Multi-resolution spectral loss, with resolutions drawn per step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from lightning_omni.nn.codec.mel_codec import FLOOR, MagnitudeSpectrum, mel_filters
from lightning_omni.nn.cpu import without_autocast
from lightning_omni.nn.ranks import mean_over_ranks

RESOLUTIONS = ((256, 40), (512, 64), (1024, 80), (2048, 100))
"""Pairs of (transform size in samples, mel bands)."""


class MultiResolutionSpectralLoss(nn.Module):
    """L1 of log-mel, of magnitudes and of log magnitudes, over resolutions drawn at random.

    Args:
        sample_rate: Sample rate in Hz.
        drawn: Number of resolutions evaluated per call.

    Source: Parallel WaveGAN, arXiv:1910.11480, section 2.2, with log-mel terms.
    """

    def __init__(self, sample_rate: int, drawn: int) -> None:
        super().__init__()
        self.drawn = drawn
        self.spectra = nn.ModuleList(MagnitudeSpectrum(n, n // 4) for n, _ in RESOLUTIONS)
        for i, (n_fft, mels) in enumerate(RESOLUTIONS):
            filters = mel_filters(mels, n_fft, sample_rate, max_hz=sample_rate / 2)
            self.register_buffer(f"filters{i}", filters, persistent=False)

    def forward(
        self, wave: Float[Tensor, "B T"], target: Float[Tensor, "B T"], *, rng: Generator
    ) -> Float[Tensor, ""]:
        """Return the distance of two waveforms, in float32 also under autocast."""
        with without_autocast(wave.device.type):
            return self._distance(wave.float(), target, rng)

    def _distance(self, wave: Tensor, target: Tensor, rng: Generator) -> Tensor:
        terms = []
        for i in torch.randperm(len(self.spectra), generator=rng)[: self.drawn].tolist():
            a, b = self.spectra[i](wave), self.spectra[i](target)
            filters: Tensor = getattr(self, f"filters{i}")
            mel = [(x @ filters).clamp_min(FLOOR).log() for x in (a, b)]
            log_a, log_b = a.clamp_min(1e-3).log(), b.clamp_min(1e-3).log()
            terms.append(
                F.l1_loss(*mel)
                + 0.25 * F.l1_loss(a, b) / mean_over_ranks(b.mean()).clamp_min(1e-5)
                + 0.25 * F.l1_loss(log_a, log_b)
            )
        return torch.stack(terms).mean()
