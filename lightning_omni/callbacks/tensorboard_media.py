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

from lightning_omni.callbacks.spectrogram import spectrogram

Wave = NDArray[np.float32] | Tensor

log = logging.getLogger(__name__)

MAX_SECONDS = 10


class MediaLog:
    """Writes media to TensorBoard and counts failed writes in `failures`."""

    def __init__(self, trainer: L.Trainer) -> None:
        loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        is_on = bool(loggers) and trainer.is_global_zero
        self.writer: Any = loggers[0].experiment if is_on else None
        self.step = trainer.global_step
        self.failures = 0

    def images(self, tag: str, pictures: list[Image.Image]) -> None:
        """Write a row of pictures, left to right."""
        if self.writer is None or not pictures:
            return
        height = max(p.height for p in pictures)
        sheet = Image.new("RGB", (sum(p.width + 2 for p in pictures), height), "white")
        left = 0
        for picture in pictures:
            sheet.paste(picture, (left, 0))
            left += picture.width + 2
        pixels = torch.from_numpy(np.array(sheet))
        self._write(lambda: self.writer.add_image(tag, pixels, self.step, dataformats="HWC"))

    def audio(self, tag: str, wave: Wave, sample_rate: int) -> None:
        """Write mono audio, made finite, clamped and cut to `MAX_SECONDS`; skip empty audio."""
        sound = _playable(wave, sample_rate)
        if self.writer is None or len(sound) == 0:
            return
        self._write(lambda: self.writer.add_audio(tag, sound[None], self.step, sample_rate))

    def spectrograms(self, tag: str, waves: Sequence[Wave], sample_rate: int) -> None:
        """Write spectrograms of what `audio` would write, left to right; skip empty audio."""
        if self.writer is None:
            return
        sounds = [_playable(wave, sample_rate) for wave in waves]
        self.images(tag, [spectrogram(sound, sample_rate) for sound in sounds if len(sound)])

    def table(self, tag: str, header: list[str], rows: list[list[str]]) -> None:
        """Write a Markdown table; cells are escaped."""
        if self.writer is None or not rows:
            return
        cells = [[html.escape(cell).replace("|", "&#124;") or " " for cell in row] for row in rows]
        lines = [header, ["---"] * len(header), *cells]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        self._write(lambda: self.writer.add_text(tag, text, self.step))

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
            self.failures += 1
            log.warning("could not write to TensorBoard: %s", error)


def _playable(wave: Wave, sample_rate: int) -> Tensor:
    sound = torch.nan_to_num(torch.as_tensor(wave, dtype=torch.float32).flatten())
    return sound[: MAX_SECONDS * sample_rate].clamp(-1, 1)
