"""Put what was filled into the user's own medium, so that the rest of it stays as it was."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FADE_S = 0.01
"""Length of a cross-fade, in seconds; it lies within what was said anew."""


def compose_image(
    drawn: Image.Image, own: Image.Image, open_places: Collection[int], columns: int
) -> Image.Image:
    """The user's picture with the cells of the open codes drawn anew.

    Args:
        drawn: What all codes decode to.
        own: The user's picture, of the same size.
        open_places: Of the codes, in raster order.
        columns: Codes in a row.
    """
    out = own.copy()
    side = drawn.width // columns
    for place in open_places:
        row, column = divmod(place, columns)
        box = (column * side, row * side, (column + 1) * side, (row + 1) * side)
        out.paste(drawn.crop(box), box)
    return out


def compose_speech(
    said: NDArray[np.float32],
    own: NDArray[np.float32],
    open_frames: Collection[int],
    *,
    hop_length: int,
    rate: int,
) -> NDArray[np.float32]:
    """The user's sound with the open frames said anew, as long as it was.

    Args:
        said: What all codes decode to.
        own: The user's samples.
        open_frames: Numbers of frames.
        hop_length: Samples of a frame.
        rate: Samples per second.
    """
    num_frames = -(-len(own) // hop_length)
    is_open = np.zeros(num_frames + 2, dtype=bool)
    is_open[[1 + frame for frame in open_frames]] = True
    weight = np.zeros(num_frames * hop_length, dtype=np.float32)
    turns = np.flatnonzero(is_open[1:] != is_open[:-1])
    for first, last in zip(turns[::2], turns[1::2], strict=True):
        weight[first * hop_length : last * hop_length] = _window(
            (last - first) * hop_length,
            round(FADE_S * rate),
            fades_in=first > 0,
            fades_out=last < num_frames,
        )
    weight = weight[: len(own)]
    return np.asarray(own + weight * (said[: len(own)] - own), dtype=np.float32)


def _window(length: int, fade: int, *, fades_in: bool, fades_out: bool) -> NDArray[np.float32]:
    """Ones, with a ramp at each side that borders on the user's own sound."""
    window = np.ones(length, dtype=np.float32)
    ramp = (np.arange(min(fade, length // 2), dtype=np.float32) + 1) / (fade + 1)
    if fades_in:
        window[: len(ramp)] = ramp
    if fades_out:
        window[length - len(ramp) :] = ramp[::-1]
    return window
