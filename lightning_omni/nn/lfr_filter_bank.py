"""Log filter-bank energies in frames of 60 ms, as SenseVoice and its kin hear speech."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lightning_omni.errors import OmniError

SAMPLE_RATE = 16_000
NUM_MELS = 80
STACKED = 7
"""Windows in a frame (m)."""
STRIDE = 6
"""Windows from one frame to the next (n)."""
DIM = NUM_MELS * STACKED
_WINDOW, _HOP, _FFT = 400, 160, 512
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 8000.0
_EMPHASIS = 0.97
_FULL_SCALE = 2.0**15  # the networks that listen were trained on 16-bit integers


class LfrFilterBank(nn.Module):
    """80 log-mel energies per 10 ms, seven of them stacked every 60 ms.

    Windows are Kaldi's: 25 ms, their mean removed, pre-emphasised, shaped by Hamming; only whole
    ones count. No noise (dither) is added, so the same sound gives the same features. The first
    window is repeated three times before the first frame, the last to fill the last frame.

    Source: Kaldi's `compute-fbank-feats`; low frame rate: arXiv:1607.06947, section 2.
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        window = torch.hamming_window(_WINDOW, periodic=False)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", _mel_triangles(), persistent=False)

    def forward(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B N 560"]:
        """Frames of samples in [-1, 1] at 16 kHz, N = ceil((1 + (T - 400) // 160) / 6).

        Raises:
            OmniError: If the sound is shorter than a window.
        """
        if wave.shape[1] < _WINDOW:
            raise OmniError(
                f"a sound of {wave.shape[1]} samples is shorter than one window of {_WINDOW}; give "
                f"at least {_WINDOW / SAMPLE_RATE} s"
            )
        with torch.autocast(wave.device.type, enabled=False):
            return _stacked(self._log_mels(wave.float() * _FULL_SCALE))

    def _log_mels(self, wave: Float[Tensor, "B T"]) -> Float[Tensor, "B W 80"]:
        windows = wave.unfold(1, _WINDOW, _HOP)
        windows = windows - windows.mean(-1, keepdim=True)
        before = torch.cat((windows[..., :1], windows[..., :-1]), dim=-1)
        shaped = (windows - _EMPHASIS * before) * self.window
        power = torch.fft.rfft(shaped, n=_FFT).abs().square()
        energy: Tensor = power @ self.filters
        return energy.clamp_min(torch.finfo(torch.float32).eps).log()


def _stacked(mels: Float[Tensor, "B W 80"]) -> Float[Tensor, "B N 560"]:
    """Windows in overlapping stacks, so that a frame knows what is around it."""
    count = math.ceil(mels.shape[1] / STRIDE)
    ahead = (STACKED - 1) // 2
    behind = max(0, (count - 1) * STRIDE + STACKED - ahead - mels.shape[1])
    padded = F.pad(mels.transpose(1, 2), (ahead, behind), mode="replicate")
    stacks = padded.unfold(2, STACKED, STRIDE)[:, :, :count]
    return stacks.permute(0, 2, 3, 1).flatten(2)


def _mel_triangles() -> Float[Tensor, "257 80"]:
    """Triangles of height one, equally spaced and straight in mel, as Kaldi's are."""
    low, high = (1127 * math.log1p(hz / 700) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    steps = torch.arange(NUM_MELS + 2, dtype=torch.float64)
    corners = low + (high - low) * steps / (NUM_MELS + 1)
    bins = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / _FFT
    mel = 1127 * torch.log1p(bins / 700)[:, None]
    rising = (mel - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - mel) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).float()
