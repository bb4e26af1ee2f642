"""Checks of what a caller from Python hands over as text, picture or sound."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.errors import OmniError


def check_text(text: object, name: str) -> None:
    """Refuse what is no text.

    Raises:
        OmniError: If so.
    """
    if not isinstance(text, str):
        raise OmniError(f"{name} is {_kind(text)}, wanted text")


def check_picture(image: object, name: str) -> None:
    """Refuse what is no picture, is empty or cannot be read.

    Raises:
        OmniError: If so.
    """
    if not isinstance(image, Image.Image):
        raise OmniError(
            f"{name} is {_kind(image)}, wanted a PIL image; read a file with "
            "lightning_omni.data.media.read_image, take an array with PIL.Image.fromarray"
        )
    if not all(image.size):
        raise OmniError(f"{name} has {image.width} x {image.height} pixels, wanted some")
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise OmniError(f"{name} cannot be read ({error}); open the file again") from error


def waveform_as_floats(speech: Any, name: str) -> NDArray[np.float32]:
    """Return samples as floats; integers are scaled by the greatest of their type.

    Raises:
        OmniError: If they are no array of numbers.
    """
    is_array = isinstance(speech, list) or hasattr(speech, "__array__")
    try:
        own = np.asarray(speech) if is_array else None
    except (ValueError, TypeError):  # of unequal lists
        own = None
    if own is None or own.dtype.kind not in "fiu" or own.dtype.name in ("int64", "uint64"):
        what = _kind(speech) if own is None else f"an array of {own.dtype}"
        raise OmniError(
            f"{name} is {what}, wanted mono samples as an array of floats, int16 or int32; read a "
            "file with lightning_omni.data.media.read_audio"
        )
    if own.dtype.kind == "f":
        return np.ascontiguousarray(own, dtype=np.float32)
    limits = np.iinfo(own.dtype)
    middle = 0 if limits.min < 0 else (limits.max + 1) / 2
    scaled = (own.astype(np.float64) - middle) / ((limits.max + 1) - middle)
    return np.ascontiguousarray(scaled, dtype=np.float32)


def _kind(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
