"""The user's own media are kept where nothing was masked."""

import numpy as np
from PIL import Image

from lightning_omni.generation.blending import blend_image, blend_speech

RATE, HOP = 1000, 100


def test_a_picture_keeps_its_pixels_outside_the_masked_codes():
    own, generated = (Image.new("RGB", (8, 8), (light,) * 3) for light in (0, 255))
    made = np.asarray(blend_image(generated, own, {1, 14}, 4))[..., 0]
    is_generated = np.zeros((8, 8), dtype=bool)
    is_generated[0:2, 2:4] = is_generated[6:8, 4:6] = True
    assert (made == np.where(is_generated, 255, 0)).all()


def test_speech_keeps_its_samples_outside_the_masked_frames_and_fades_within_them():
    own, generated = np.zeros(950, dtype=np.float32), np.ones(1000, dtype=np.float32)
    made = blend_speech(generated, own, {2, 3, 9}, hop_length=HOP, rate=RATE)
    assert len(made) == 950
    is_masked = np.zeros(950, dtype=bool)
    is_masked[200:400] = is_masked[900:] = True
    assert (made[~is_masked] == 0).all()
    assert (made[is_masked] > 0).all()
    assert (made[210:390] == 1).all()
    assert (np.diff(made[200:210]) > 0).all()
    assert (np.diff(made[390:400]) < 0).all()
    assert made[-1] == 1  # the end borders on nothing


def test_speech_without_masked_frames_is_returned_bit_for_bit():
    wave = np.linspace(-1, 1, 250, dtype=np.float32)
    kept = blend_speech(np.zeros(300, dtype=np.float32), wave, (), hop_length=HOP, rate=RATE)
    assert (kept == wave).all()
