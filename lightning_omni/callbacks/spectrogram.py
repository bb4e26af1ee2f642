"""Draw a waveform as a log-mel spectrogram."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from lightning_omni.nn.codec.mel_codec import LogMel

NUM_MELS = 80
SCALE = 2
"""Pixels per frame and mel band."""
_RANGE = 2.6


@torch.no_grad()
def draw_spectrogram(wave: Float[Tensor, " T"], sample_rate: int) -> Image.Image:
    """Return a picture of `LogMel` with 100 frames per second, low frequencies at the bottom.

    Time runs from left to right, 200 pixels per second. Bands reach from 0 Hz to half the sample
    rate, equally spaced on the mel scale. Black is -2.6 (or less) on the scale of `LogMel`, near
    white 2.6.

    Args:
        wave: Samples in [-1, 1], not empty.
        sample_rate: Sample rate in Hz.
    """
    hop = sample_rate // 100
    whole = F.pad(wave.float().cpu(), (0, -len(wave) % hop))
    bands = LogMel(sample_rate, 4 * hop, hop, NUM_MELS)(whole[None])[0]
    levels = ((bands.T.flip(0) + _RANGE) / (2 * _RANGE)).clamp(0, 1) * 255
    grey = Image.fromarray(levels.round().to(torch.uint8).numpy())
    size = (grey.width * SCALE, grey.height * SCALE)
    coloured = ImageOps.colorize(grey, black="#000004", mid="#b5367a", white="#fcfdbf")
    return coloured.resize(size, Image.Resampling.NEAREST)
