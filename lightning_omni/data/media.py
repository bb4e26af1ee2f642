"""Decode pictures and sound, with the limits that keep a hostile file from exhausting memory."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightning_omni.errors import OmniError

MAX_PIXELS = 40_000_000
MAX_SECONDS = 60.0
MIN_SECONDS = 0.05


def read_image(source: Path | bytes, *, name: str | None = None) -> Image.Image:
    """Decode a PNG, JPEG or WebP to RGB; the first frame of an animation.

    Raises:
        OmniError: If the file is absent, unreadable or has more than `MAX_PIXELS`.
    """
    name = name or (str(source) if isinstance(source, Path) else "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            raw = source.read_bytes() if isinstance(source, Path) else source
            image = Image.open(io.BytesIO(raw), formats=("PNG", "JPEG", "WEBP"))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise OmniError(
                f"'{name}' has {width} x {height} pixels, at most {MAX_PIXELS // 10**6} megapixels "
                "are accepted; scale it down"
            )
        return image.convert("RGB")
    except FileNotFoundError as error:
        raise OmniError(f"no image at '{name}'; check the path") from error
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise OmniError(f"'{name}' is not a readable PNG, JPEG or WebP ({error})") from error


def square(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to `size` and cut the centre, as the image tokenizer expects."""
    width, height = image.size
    scale = size / min(width, height)
    if scale != 1:
        wide = (max(size, round(width * scale)), max(size, round(height * scale)))
        image = image.resize(wide, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def image_to_tensor(image: Image.Image) -> Float[Tensor, "3 Y X"]:
    """RGB picture to floats in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def tensor_to_image(pixels: Float[Tensor, "3 Y X"]) -> Image.Image:
    """Floats in [-1, 1], clamped, to an RGB picture."""
    scaled = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(scaled.permute(1, 2, 0).cpu().numpy())


def read_audio(
    source: Path | bytes, *, sample_rate: int, name: str | None = None
) -> NDArray[np.float32]:
    """Decode sound to mono at `sample_rate` Hz in [-1, 1], averaging channels and resampling.

    Raises:
        OmniError: If the file is absent, unreadable, empty, longer than `MAX_SECONDS` or holds
            values that are not finite.
    """
    name = name or (str(source) if isinstance(source, Path) else "audio")
    try:
        raw = source.read_bytes() if isinstance(source, Path) else source
        with soundfile.SoundFile(io.BytesIO(raw)) as sound:
            rate = sound.samplerate
            _check_length(sound.frames / rate, name)
            wave = sound.read(int(MAX_SECONDS * rate) + 1, dtype="float32", always_2d=True).mean(1)
    except FileNotFoundError as error:
        raise OmniError(f"no audio at '{name}'; check the path") from error
    except (soundfile.LibsndfileError, RuntimeError, ZeroDivisionError, OSError) as error:
        raise OmniError(
            f"'{name}' is not readable audio ({error}); give WAV, FLAC, OGG or MP3"
        ) from error
    _check_length(len(wave) / rate, name)
    if not np.isfinite(wave).all():
        raise OmniError(f"'{name}' holds samples that are not finite; write it again as 16-bit WAV")
    resampled = wave if rate == sample_rate else soxr.resample(wave, rate, sample_rate)
    return np.clip(np.asarray(resampled, dtype=np.float32), -1, 1)


def _check_length(seconds: float, name: str) -> None:
    if seconds < MIN_SECONDS:
        raise OmniError(f"'{name}' lasts {seconds:.3f} s, at least {MIN_SECONDS} s are needed")
    if seconds > MAX_SECONDS:
        raise OmniError(f"'{name}' lasts {seconds:.1f} s, at most {MAX_SECONDS:.0f} s; cut it")
