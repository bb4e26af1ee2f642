"""What a user gives of an answer beforehand, and which of its codes that leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightning_omni.data.media import opaque
from lightning_omni.errors import OmniError
from lightning_omni.tasks import Task

Times = Sequence[tuple[float, float]]
"""Runs `(start, end)` in seconds."""
_LIGHT = 128


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer, or part of one, in which gaps are to be filled; the rest stays as it is.

    Attributes:
        text: Text in which `___` is a gap, and `___{2}` a gap of two tokens.
        image: A picture.
        mask: Light where the picture is to be drawn anew, of any size; None keeps all of it.
        speech: Mono samples in [-1, 1] at the speech tokenizer's rate.
        times: Runs of the speech that are to be said anew, in seconds; None keeps all of it.

    Raises:
        OmniError: If nothing is given, or a mask or times without what they are about.
    """

    text: str | None = None
    image: Image.Image | None = None
    mask: Image.Image | None = None
    speech: NDArray[np.float32] | None = None
    times: Times | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, f.name) is None for f in fields(self)):
            raise OmniError("the draft is empty; give a text, an image or speech")
        check_has_medium("mask", self.mask, "image", self.image)
        check_has_medium("times", self.times, "speech", self.speech)

    def modalities(self) -> list[str]:
        """What it holds."""
        return [name for name in ("text", "image", "speech") if getattr(self, name) is not None]


def check_has_medium(name: str, hidden: object, modality: str, medium: object) -> None:
    """Refuse a mask without an image and times without speech.

    Raises:
        OmniError: If so.
    """
    if hidden is not None and medium is None:
        raise OmniError(f"{name} is given without the {modality} it is for; give both")


def check_draft(task: Task, draft: Draft) -> None:
    """Refuse a draft of what a task does not answer with.

    Raises:
        OmniError: If so.
    """
    for modality in draft.modalities():
        if modality not in task.answers:
            raise OmniError(
                f"task '{task.name}' ({task.summary}) answers with {' and '.join(task.answers)}, "
                f"but the draft holds {modality}; leave it out or choose another task"
            )


def open_cells(image: Image.Image, mask: Image.Image, columns: int) -> frozenset[int]:
    """Places of the codes that a mask touches.

    Args:
        image: The picture, before its central square is cut out.
        mask: Light where something is to be done, and not where it is transparent; it is laid over
            the whole picture.
        columns: Codes in a row of the square.

    Raises:
        OmniError: If the mask is dark all over the square.
    """
    is_light = np.asarray(opaque(mask, "black").convert("L")) >= _LIGHT
    side = min(image.size)
    across = _pixels(mask.width, image.width, side, columns)
    down = _pixels(mask.height, image.height, side, columns)
    touched = [
        row * columns + column
        for row, (top, bottom) in enumerate(down)
        for column, (left, right) in enumerate(across)
        if is_light[top:bottom, left:right].any()
    ]
    if not touched:
        raise OmniError(
            "the mask is empty: nothing of it over the picture is light; paint what is meant white"
        )
    return frozenset(touched)


def _pixels(mask_size: int, image_size: int, side: int, cells: int) -> list[tuple[int, int]]:
    """Pixels of a mask that each cell of the central square's side touches, as `(start, stop)`."""
    whole = 2 * cells * image_size
    edges = [mask_size * ((image_size - side) * cells + 2 * i * side) for i in range(cells + 1)]
    return [(a // whole, -(-b // whole)) for a, b in pairwise(edges)]


def open_frames(num_samples: int, times: Times, *, rate: int, hop_length: int) -> list[int]:
    """Frames of speech that overlap with any of the times, ascending.

    Args:
        num_samples: Of the speech.
        times: In seconds.
        rate: Samples per second.
        hop_length: Samples of a frame.

    Raises:
        OmniError: If there are no times, or some are not within the speech.
    """
    if not times:
        raise OmniError("times is empty; name at least one run of seconds, as 0.5-1.2")
    found: set[int] = set()
    for start, end in times:
        first, last = ((round(x * rate) if np.isfinite(x) else -1) for x in (start, end))
        if not 0 <= first < last <= num_samples:
            raise OmniError(
                f"times {start:g}-{end:g} are not within the speech, which lasts "
                f"{num_samples * 1000 // rate / 1000:g} s; wanted a start before an end"
            )
        found.update(range(first // hop_length, -(-last // hop_length)))
    return sorted(found)
