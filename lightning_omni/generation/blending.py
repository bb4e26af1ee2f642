"""Blend generated media with the user's own: masked cells, and masked frames with a cross-fade."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FADE_S = 0.01
"""Length of a cross-fade in seconds; it lies within what was generated."""


def blend_image(
    generated: Image.Image, own: Image.Image, masked: Collection[int], columns: int
) -> Image.Image:
    """Return the user's picture with the cells of the masked codes replaced.

    Args:
        generated: picture that all codes decode to.
        own: the user's picture, of the same size.
        masked: positions of masked codes, in raster order.
        columns: codes of a row.
    """
    out = own.copy()
    side = generated.width // columns
    for position in masked:
        row, column = divmod(position, columns)
        box = (column * side, row * side, (column + 1) * side, (row + 1) * side)
        out.paste(generated.crop(box), box)
    return out


def blend_speech(
    generated: NDArray[np.float32],
    own: NDArray[np.float32],
    masked_frames: Collection[int],
    *,
    hop_length: int,
    rate: int,
) -> NDArray[np.float32]:
    """Return the user's samples with the masked frames replaced, cross-faded at their edges.

    Args:
        generated: samples that all codes decode to.
        own: the user's samples.
        masked_frames: indices of masked frames.
        hop_length: samples of a frame.
        rate: samples per second.
    """
    num_frames = -(-len(own) // hop_length)
    is_masked = np.zeros(num_frames + 2, dtype=bool)
    is_masked[[1 + frame for frame in masked_frames]] = True
    weight = np.zeros(num_frames * hop_length, dtype=np.float32)
    edges = np.flatnonzero(is_masked[1:] != is_masked[:-1])
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        weight[first * hop_length : last * hop_length] = _crossfade_window(
            (last - first) * hop_length,
            round(FADE_S * rate),
            fades_in=first > 0,
            fades_out=last < num_frames,
        )
    weight = weight[: len(own)]
    return np.asarray(own + weight * (generated[: len(own)] - own), dtype=np.float32)


def _crossfade_window(
    length: int, fade: int, *, fades_in: bool, fades_out: bool
) -> NDArray[np.float32]:
    """Return ones, with a ramp at each side that borders on the user's own sound."""
    window = np.ones(length, dtype=np.float32)
    ramp = (np.arange(min(fade, length // 2), dtype=np.float32) + 1) / (fade + 1)
    if fades_in:
        window[: len(ramp)] = ramp
    if fades_out:
        window[length - len(ramp) :] = ramp[::-1]
    return window
