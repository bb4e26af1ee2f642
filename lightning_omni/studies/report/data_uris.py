"""Pictures and recordings as data URIs, which a page holds in itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".flac": "audio/flac", ".wav": "audio/wav"}
_WINDOW = 400  # samples, 25 ms at 16 kHz
_HOP = 160  # samples, 10 ms
_FLOOR_DB = -80.0


def file_data_uri(path: Path) -> str:
    """Return a picture or recording as a data URI."""
    return encode_data_uri(path.read_bytes(), _MIME[path.suffix])


def spectrogram_uri(path: Path) -> tuple[str, float]:
    """Draw the spectrogram of a recording, 10 ms per column, 0 Hz to the Nyquist frequency upwards.

    Returns:
        Data URI of the picture, and the duration in seconds.
    """
    wave, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    levels = log_spectrogram(wave.mean(axis=1))
    colors = matplotlib.colormaps["magma"](levels[::-1], bytes=True)[..., :3]
    image = Image.fromarray(np.ascontiguousarray(colors)).quantize(64)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return encode_data_uri(out.getvalue(), "image/png"), len(wave) / sample_rate


def log_spectrogram(wave: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log magnitudes within 80 dB, scaled to [0, 1], Float[F T]; two bins per row."""
    padded = np.pad(wave, (0, max(0, _WINDOW - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), axis=1)) ** 2
    pairs = power[:, : _WINDOW // 2].reshape(len(power), -1, 2).mean(axis=2)
    decibels = 10 * np.log10(pairs / max(float(pairs.max()), 1e-9) + 1e-12)
    levels: NDArray[np.float64] = np.clip(1 - decibels / _FLOOR_DB, 0, 1).T
    return levels


def encode_data_uri(content: bytes, mime: str) -> str:
    """Return a file's content as a data URI of that MIME type."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
