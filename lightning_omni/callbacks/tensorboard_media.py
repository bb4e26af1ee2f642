"""Write pictures, audio and text to TensorBoard; failures never stop a training."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_omni.callbacks.logged_step import logged_step
from lightning_omni.callbacks.spectrogram import draw_spectrogram

Wave = NDArray[np.float32] | Tensor

log = logging.getLogger(__name__)

MAX_SECONDS = 10
MARGIN = 2
"""Pixels between pictures."""


class MediaLog:
    """Writes media to TensorBoard and counts failed writes in `failures`."""

    def __init__(self, trainer: L.Trainer) -> None:
        loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        is_on = bool(loggers) and trainer.is_global_zero
        self.writer: Any = loggers[0].experiment if is_on else None
        self.step = logged_step(trainer)
        self.failures = 0

    def write_images(self, tag: str, pictures: list[Image.Image], *, stacked: bool = False) -> None:
        """Write pictures in one, left to right, or if `stacked` top to bottom."""
        if self.writer is None or not pictures:
            return
        widths, heights = zip(
            *((p.width + MARGIN, p.height + MARGIN) for p in pictures), strict=True
        )
        size = (max(widths), sum(heights)) if stacked else (sum(widths), max(heights))
        sheet = Image.new("RGB", (size[0] - MARGIN, size[1] - MARGIN), "white")
        at = 0
        for picture in pictures:
            sheet.paste(picture, (0, at) if stacked else (at, 0))
            at += (picture.height if stacked else picture.width) + MARGIN
        pixels = torch.from_numpy(np.array(sheet))
        self._write_or_warn(
            lambda: self.writer.add_image(tag, pixels, self.step, dataformats="HWC")
        )

    def write_audio(self, tag: str, wave: Wave, sample_rate: int) -> None:
        """Write mono audio, made finite, clamped and cut to `MAX_SECONDS`; skip empty audio."""
        sound = _make_playable(wave, sample_rate)
        if self.writer is None or len(sound) == 0:
            return
        self._write_or_warn(lambda: self.writer.add_audio(tag, sound[None], self.step, sample_rate))

    def write_spectrograms(self, tag: str, waves: Sequence[Wave], sample_rate: int) -> None:
        """Write spectrograms of what `write_audio` would write, top to bottom; skip empty audio."""
        if self.writer is None:
            return
        sounds = [_make_playable(wave, sample_rate) for wave in waves]
        pictures = [draw_spectrogram(sound, sample_rate) for sound in sounds if len(sound)]
        self.write_images(tag, pictures, stacked=True)

    def write_table(self, tag: str, header: list[str], rows: list[list[str]]) -> None:
        """Write a Markdown table; cells are escaped."""
        if self.writer is None or not rows:
            return
        cells = [[html.escape(cell).replace("|", "&#124;") or " " for cell in row] for row in rows]
        lines = [header, ["---"] * len(header), *cells]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        self._write_or_warn(lambda: self.writer.add_text(tag, text, self.step))

    def _write_or_warn(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
            self.failures += 1
            log.warning("could not write to TensorBoard: %s", error)


def _make_playable(wave: Wave, sample_rate: int) -> Tensor:
    sound = torch.nan_to_num(torch.as_tensor(wave, dtype=torch.float32).flatten())
    return sound[: MAX_SECONDS * sample_rate].clamp(-1, 1)
