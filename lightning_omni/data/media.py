"""Decode images and audio, with limits that keep a hostile file from exhausting memory."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightning_omni.data.picture_metadata import turn_upright, without_png_text
from lightning_omni.data.sound_headers import complete_header, missing_share
from lightning_omni.errors import OmniError

MAX_PIXELS = 40_000_000
MAX_SECONDS = 60.0
MIN_SECONDS = 0.05
MIN_RATE = 4000
MAX_PEAK = 8.0
"""Peak of float sound that passes, to be clipped; a greater one is on the scale of integers."""
MIN_MIXED_SHARE = 1e-3
"""Least power of the mean of the channels, as a share of the channels' own power."""
_BUFFER = re.compile(r"<_io\.BytesIO object at 0x[0-9a-f]+>")


def read_image(
    source: Path | bytes, *, name: str | None = None, ground: str = "white"
) -> Image.Image:
    """Decode a PNG, JPEG or WebP to RGB, upright, transparency on the colour `ground`.

    Animations give their first frame; 16-bit greys are scaled to 8 bits.

    Raises:
        OmniError: If the file is absent, unreadable or has more than `MAX_PIXELS`.
    """
    name = name or (str(source) if isinstance(source, Path) else "image")
    raw = _read_bytes(source, name, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decompression bombs, and of metadata
            image = Image.open(io.BytesIO(without_png_text(raw)), formats=("PNG", "JPEG", "WEBP"))
            _check_image_size(*image.size, name)
            return flatten_transparency(turn_upright(image), ground)
    except Image.DecompressionBombError as error:
        pixels = re.sub(r"\D*(\d+).*", r"\1", str(error))
        raise OmniError(
            f"'{name}' has {pixels} pixels, at most {MAX_PIXELS // 10**6} megapixels are accepted; "
            "scale it down"
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise OmniError(
            f"'{name}' is not a readable PNG, JPEG or WebP ({_error_text_without_buffer(error)})"
        ) from error


def center_crop_and_resize(image: Image.Image, size: int) -> Image.Image:
    """Cut the central square and scale it to `size`, as the image tokenizer expects."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side == size:
        return image.crop(box)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _read_bytes(source: Path | bytes, name: str, kind: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except FileNotFoundError as error:
        raise OmniError(f"no {kind} at '{name}'; check the path") from error
    except OSError as error:
        raise OmniError(f"cannot read the {kind} '{name}' ({error.strerror})") from error


def _check_image_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise OmniError(
            f"'{name}' has {width} x {height} = {width * height} pixels, at most "
            f"{MAX_PIXELS // 10**6} megapixels are accepted; scale it down"
        )


def flatten_transparency(image: Image.Image, ground: str) -> Image.Image:
    """Convert to RGB, transparency on the colour `ground`."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float64) / 257
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8), "L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    behind = Image.new("RGBA", image.size, ground)
    return Image.alpha_composite(behind, clear).convert("RGB")


def _error_text_without_buffer(error: Exception) -> str:
    """Return an error's text without the name of the buffer it read from."""
    return _BUFFER.sub("the file", str(error))


def scale_pixels(pixels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Map bytes to [-1, 1]."""
    return pixels.float() / 127.5 - 1


def image_to_tensor(image: Image.Image) -> Float[Tensor, "3 Y X"]:
    """Convert an RGB image to floats in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return scale_pixels(pixels.permute(2, 0, 1))


def tensor_to_image(pixels: Float[Tensor, "3 Y X"]) -> Image.Image:
    """Convert floats in [-1, 1], clamped, to an RGB image."""
    scaled = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(scaled.permute(1, 2, 0).cpu().numpy())


class _Sound(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is read from its beginning; a FLAC of unknown length has no end to seek."""

    def seekable(self) -> bool:
        """Keep soundfile from seeking after it has read."""
        return False


def read_audio(
    source: Path | bytes, *, sample_rate: int, name: str | None = None
) -> NDArray[np.float32]:
    """Decode audio to mono at `sample_rate` Hz in [-1, 1], averaging channels and resampling.

    Raises:
        OmniError: If the file is absent, unreadable, empty, cut, longer than `MAX_SECONDS`, holds
            values that are not finite or far beyond 1, or its channels cancel each other.
    """
    name = name or (str(source) if isinstance(source, Path) else "audio")
    raw = complete_header(_read_bytes(source, name, "audio"), seconds=MAX_SECONDS + 1)
    try:
        with _Sound(io.BytesIO(raw)) as sound:
            rate, promised = sound.samplerate, sound.frames
            if rate < MIN_RATE:
                raise OmniError(
                    f"'{name}' has {rate} samples per second, wanted {MIN_RATE} or more"
                )
            is_open = raw[:4] == b"fLaC" and promised == int((MAX_SECONDS + 1) * rate)
            _check_duration(MAX_SECONDS if is_open else promised / rate, name)
            most = min(promised, int(MAX_SECONDS * rate) + 1)
            channels = sound.read(most, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ZeroDivisionError, OSError) as error:
        raise OmniError(
            f"'{name}' is not readable audio ({_error_text_without_buffer(error)}); give WAV, "
            "FLAC, OGG or MP3"
        ) from error
    if share := missing_share(raw, promised, len(channels)):
        raise OmniError(f"'{name}' is cut: {share:.0%} of its sound is missing; copy it again")
    wave = channels.mean(1)
    check_waveform(wave, rate, name)
    _check_channels(channels, wave, name)
    return resample(wave, rate, sample_rate)


def check_waveform(wave: NDArray[np.float32], rate: int, name: str) -> None:
    """Refuse audio that is not mono, too short, too long, not finite or on another scale.

    Raises:
        OmniError: If the audio is refused.
    """
    if wave.ndim != 1:
        raise OmniError(f"'{name}' has the shape {wave.shape}, wanted mono samples, Float[T]")
    _check_duration(len(wave) / rate, name)
    if not np.isfinite(wave).all():
        raise OmniError(f"'{name}' holds samples that are not finite; write it again as 16-bit WAV")
    if (peak := float(np.abs(wave).max())) > MAX_PEAK:
        raise OmniError(
            f"'{name}' reaches {peak:.4g}, wanted samples from -1 to 1; divide it, by 32768 if it "
            "was made of 16-bit numbers"
        )


def _check_channels(channels: NDArray[np.float32], wave: NDArray[np.float32], name: str) -> None:
    """Refuse channels of which one is the other's negative, so that their mean is silent."""
    own = np.square(channels, dtype=np.float64).mean()
    if own > 0 and np.square(wave, dtype=np.float64).mean() < MIN_MIXED_SHARE * own:
        raise OmniError(f"the channels of '{name}' cancel each other; give one of them")


def resample(wave: NDArray[np.float32], rate: int, sample_rate: int) -> NDArray[np.float32]:
    """Resample samples in [-1, 1] from `rate` Hz to `sample_rate` Hz."""
    other = wave if rate == sample_rate else soxr.resample(wave, rate, sample_rate)
    return np.clip(np.asarray(other, dtype=np.float32), -1, 1)


def _check_duration(seconds: float, name: str) -> None:
    if seconds < MIN_SECONDS:
        raise OmniError(f"'{name}' lasts {seconds:.3f} s, at least {MIN_SECONDS} s are needed")
    if seconds > MAX_SECONDS:
        raise OmniError(f"'{name}' lasts {seconds:.1f} s, at most {MAX_SECONDS:.0f} s; cut it")
