"""A spectrogram shows when a tone sounds and how high it is."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_omni.callbacks import tensorboard_media
from lightning_omni.callbacks.spectrogram import NUM_MELS, SCALE, draw_spectrogram

RATE = 16_000


def _tone(hz, seconds):
    return 0.8 * torch.sin(2 * math.pi * hz * torch.arange(int(RATE * seconds)) / RATE)


@pytest.mark.parametrize(("hz", "band"), [(200, 5), (1000, 26), (4000, 60)])
def test_a_tone_after_silence_is_a_bright_line_at_its_height_and_time(hz, band):
    wave = torch.cat((torch.zeros(RATE // 2), _tone(hz, 0.5)))[:-1]
    picture = draw_spectrogram(wave, RATE)
    assert picture.size == (100 * SCALE, NUM_MELS * SCALE)
    grey = np.asarray(picture.convert("L")).astype(int)
    assert grey[:, : 45 * SCALE].max() == grey.min() < 5
    rows = grey[:, 60 * SCALE : 90 * SCALE].mean(1)
    assert NUM_MELS - 1 - rows.argmax() // SCALE == pytest.approx(band, abs=2)
    assert rows.max() > 120


def test_spectrograms_stand_above_each_other_and_empty_audio_is_left_out(monkeypatch):
    written = []
    writer = SimpleNamespace(
        add_image=lambda tag, pixels, step, dataformats: written.append(pixels)
    )
    trainer = SimpleNamespace(loggers=[], is_global_zero=True, global_step=3, lightning_module=None)
    media = tensorboard_media.MediaLog(trainer)
    media.write_spectrograms("nowhere", [_tone(500, 1.0)], RATE)
    media.writer = writer
    media.write_spectrograms("s", [_tone(500, 1.0), torch.zeros(0), np.full(160, np.nan)], RATE)
    (pixels,) = written
    assert pixels.shape == (2 * NUM_MELS * SCALE + 2, 100 * SCALE, 3)
    assert media.failures == 0
    media.write_images("i", [Image.new("RGB", size, "red") for size in ((3, 5), (4, 2))])
    assert written[-1].shape == (5, 3 + 2 + 4, 3)
    assert written[-1][4].tolist() == [[255, 0, 0]] * 3 + [[255, 255, 255]] * 6
