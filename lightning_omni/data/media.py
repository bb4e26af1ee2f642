"""Decode images and audio, with limits that keep a hostile file from exhausting memory."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
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
from lightning_omni.data.sound_headers import complete_header, ends_within_page, missing_share
from lightning_omni.errors import OmniError
from lightning_omni.files import check_file_size, read_regular_file

MAX_FILE_BYTES = 100_000_000
"""Largest picture, recording or other medium that is read."""
MAX_PIXELS = 40_000_000
MAX_PICTURE_BYTES = 200_000_000
"""Most memory of decoding a picture; 16 bits, transparency and WebP take more for each pixel."""
MAX_SOUND_VALUES = 24_000_000
"""Most frames times channels of a recording: 60 s of 8 channels at 48 kHz."""
MAX_SECONDS = 60.0
MIN_SECONDS = 0.05
MIN_RATE = 4000
MAX_PEAK = 8.0
"""Peak of float sound that passes, to be clipped; a greater one is on the scale of integers."""
MIN_MIXED_SHARE = 1e-3
"""Least power of the mean of the channels, as a share of the channels' own power."""
_UNREADABLE_PICTURE = (
    UnidentifiedImageError,
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
    MemoryError,
    AssertionError,
)
"""What Pillow raises for files that are damaged."""
_BYTES_PER_PIXEL = {"1": 5, "L": 5, "P": 5, "RGB": 4, "CMYK": 8, "YCbCr": 8, "LAB": 8}
"""Memory of decoding and converting a pixel by mode; of all other modes 9, and of WebP 8 more."""
_ROWS = 256
_FRAMES = 1 << 16
SOUND_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF", "NIST", "OGG", "MP3")
"""Formats of libsndfile that tell whether a file was cut, but for MP3 without a count of frames."""
_BUFFER = re.compile(r"<_io\.BytesIO object at 0x[0-9a-f]+>")


def read_image(
    source: Path | bytes, *, name: str | None = None, ground: str = "white"
) -> Image.Image:
    """Decode a PNG, JPEG or WebP to RGB, upright, transparency on the colour `ground`.

    Animations give their first frame; 16-bit greys are scaled to 8 bits.

    Raises:
        OmniError: If the file is absent, unreadable or exceeds `MAX_FILE_BYTES`, `MAX_PIXELS` or
            `MAX_PICTURE_BYTES`.
    """
    name = name or (str(source) if isinstance(source, Path) else "image")
    raw = _read_bytes(source, name, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decompression bombs, and of metadata
            image = Image.open(io.BytesIO(without_png_text(raw)), formats=("PNG", "JPEG", "WEBP"))
            _check_image_size(image, name)
            return flatten_transparency(turn_upright(image), ground)
    except Image.DecompressionBombError as error:
        pixels = re.sub(r"\D*(\d+).*", r"\1", str(error))
        raise OmniError(
            f"'{name}' has {pixels} pixels, at most {MAX_PIXELS // 10**6} megapixels are accepted; "
            "scale it down"
        ) from error
    except _UNREADABLE_PICTURE as error:
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
        check_file_size(len(source), MAX_FILE_BYTES, name)
        return source
    try:
        return read_regular_file(source, limit=MAX_FILE_BYTES, name=name)
    except FileNotFoundError as error:
        raise OmniError(f"no {kind} at '{name}'; check the path") from error
    except OSError as error:
        raise OmniError(f"cannot read the {kind} '{name}' ({error.strerror})") from error


def _check_image_size(image: Image.Image, name: str) -> None:
    """Refuse a picture by what its header states, before memory is taken for its pixels."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise OmniError(
            f"'{name}' has {width} x {height} = {width * height} pixels, at most "
            f"{MAX_PIXELS // 10**6} megapixels are accepted; scale it down"
        )
    per_pixel = _BYTES_PER_PIXEL.get(image.mode, 9) + (8 if image.format == "WEBP" else 0)
    if "transparency" in image.info:
        per_pixel = max(per_pixel, 9)
    if width * height * per_pixel > MAX_PICTURE_BYTES:
        raise OmniError(
            f"'{name}' has {width} x {height} pixels, which as {image.format} of mode {image.mode} "
            f"take {width * height * per_pixel / 1e6:.0f} MB, at most "
            f"{MAX_PICTURE_BYTES // 10**6} MB are accepted; scale it down"
        )


def flatten_transparency(image: Image.Image, ground: str) -> Image.Image:
    """Convert to RGB, transparency on the colour `ground`."""
    if image.mode.startswith("I"):
        return _scale_greys(image).convert("RGB")
    if not image.has_transparency_data:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    clear = image.convert("RGBA")
    flat = Image.new("RGB", image.size)
    for top in range(0, image.height, _ROWS):
        box = (0, top, image.width, min(top + _ROWS, image.height))
        rows = clear.crop(box)
        behind = Image.new("RGBA", rows.size, ground)
        flat.paste(Image.alpha_composite(behind, rows).convert("RGB"), box)
    return flat


def _scale_greys(image: Image.Image) -> Image.Image:
    """Scale 16-bit greys to 8 bits, some rows at a time."""
    scaled = Image.new("L", image.size)
    for top in range(0, image.height, _ROWS):
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        grey = np.asarray(rows, dtype=np.float64) / 257
        scaled.paste(Image.fromarray(grey.round().clip(0, 255).astype(np.uint8), "L"), (0, top))
    return scaled


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


def png_bytes(image: Image.Image, *, optimize: bool = False) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=optimize)
    return buffer.getvalue()


def wave_bytes(
    wave: NDArray[np.float32], rate: int, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    """Encode samples in [-1, 1] as WAV or FLAC."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


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
            if sound.format not in SOUND_FORMATS:
                raise OmniError(
                    f"'{name}' is {sound.format}, which is not read; give WAV, FLAC, OGG or MP3"
                )
            if rate < MIN_RATE:
                raise OmniError(
                    f"'{name}' has {rate} samples per second, wanted {MIN_RATE} or more"
                )
            is_open = raw[:4] == b"fLaC" and promised == int((MAX_SECONDS + 1) * rate)
            _check_duration(MAX_SECONDS if is_open else promised / rate, name)
            most = min(promised, int(MAX_SECONDS * rate) + 1)
            _check_sound_size(most, sound.channels, name)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told below
                wave, power = _read_mono(sound, most)
    except (soundfile.LibsndfileError, RuntimeError, ZeroDivisionError, OSError) as error:
        raise OmniError(
            f"'{name}' is not readable audio ({_error_text_without_buffer(error)}); give WAV, "
            "FLAC, OGG or MP3"
        ) from error
    if share := missing_share(raw, 0 if is_open else promised, len(wave)):
        raise OmniError(f"'{name}' is cut: {share:.0%} of its sound is missing; copy it again")
    if ends_within_page(raw):
        raise OmniError(f"'{name}' is cut: its last part is not whole; copy it again")
    check_waveform(wave, rate, name)
    _check_channels(power, wave, name)
    resampled = resample(wave, rate, sample_rate)
    if not np.isfinite(resampled).all():
        raise OmniError(f"'{name}' cannot be resampled to {sample_rate} Hz; resample it yourself")
    return resampled


def _check_sound_size(frames: int, channels: int, name: str) -> None:
    if frames * channels > MAX_SOUND_VALUES:
        raise OmniError(
            f"'{name}' has {frames:,} frames of {channels} channels, at most "
            f"{MAX_SOUND_VALUES // 10**6} million values are accepted; mix it down to mono or "
            "resample it"
        )


def _read_mono(sound: _Sound, frames: int) -> tuple[NDArray[np.float32], float]:
    """Return the mean of the channels and the mean power of all of them, reading in blocks."""
    mixed, total, left = [], 0.0, frames
    while left > 0:
        block = sound.read(min(_FRAMES, left), dtype="float32", always_2d=True)
        if not len(block):
            break
        mixed.append(block.mean(1))
        total += float(np.square(block, dtype=np.float64).sum())
        left -= len(block)
    wave = np.concatenate(mixed) if mixed else np.zeros(0, np.float32)
    return wave, total / max(1, len(wave) * sound.channels)


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


def _check_channels(power: float, wave: NDArray[np.float32], name: str) -> None:
    """Refuse channels of which one is the other's negative, so that their mean is silent."""
    if power > 0 and np.square(wave, dtype=np.float64).mean() < MIN_MIXED_SHARE * power:
        raise OmniError(f"the channels of '{name}' cancel each other; give one of them")


def resample(wave: NDArray[np.float32], rate: int, sample_rate: int) -> NDArray[np.float32]:
    """Resample samples, clipped to [-1, 1] before and after, from `rate` to `sample_rate` Hz."""
    wave = np.clip(wave, -1, 1)
    other = wave if rate == sample_rate else soxr.resample(wave, rate, sample_rate)
    return np.clip(np.asarray(other, dtype=np.float32), -1, 1)


def _check_duration(seconds: float, name: str) -> None:
    if seconds < MIN_SECONDS:
        raise OmniError(f"'{name}' lasts {seconds:.3f} s, at least {MIN_SECONDS} s are needed")
    if seconds > MAX_SECONDS:
        raise OmniError(f"'{name}' lasts {seconds:.1f} s, at most {MAX_SECONDS:.0f} s; cut it")
