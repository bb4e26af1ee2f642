"""Recordings of prepared data: 16 kHz mono, trimmed, at a common loudness, stored as FLAC."""

from __future__ import annotations

import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE

_LOUDNESS = 0.08  # target root mean square, full scale 1
_PEAK = 0.95
_SILENCE_DB = -42.0  # relative to the loudest window
_MARGIN_S = 0.06
_WINDOW_S = 0.01


def normalize_recording(wave: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Resample to 16 kHz mono, trim silence at both ends and set the loudness.

    Args:
        wave: Samples in [-1, 1], Float[T] or Float[T C].
        sample_rate: Sample rate of `wave` in Hz.

    Raises:
        OmniError: If the recording is empty or silent.
    """
    mono = wave if wave.ndim == 1 else wave.mean(axis=1, dtype=np.float32)
    if sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE)
    window = int(_WINDOW_S * SAMPLE_RATE)
    count = len(mono) // window
    energy = np.square(mono[: count * window].reshape(count, window)).mean(axis=1)
    if count == 0 or energy.max() < 1e-9:
        raise OmniError(f"audio of {len(mono) / SAMPLE_RATE:.2f} s is empty or silent")
    loud = np.flatnonzero(energy > energy.max() * 10 ** (_SILENCE_DB / 10))
    margin = int(_MARGIN_S * SAMPLE_RATE)
    first, last = int(loud[0]) * window - margin, int(loud[-1] + 1) * window + margin
    cut = mono[max(0, first) : last]
    gain = min(_LOUDNESS / float(np.sqrt(np.square(cut).mean())), _PEAK / float(abs(cut).max()))
    return np.asarray(cut * gain, dtype=np.float32)


def encode_flac(wave: NDArray[np.float32]) -> bytes:
    """Encode 16 kHz mono as 16-bit FLAC."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
