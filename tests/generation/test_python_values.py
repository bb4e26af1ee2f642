"""What a caller from Python hands over."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_omni import Omni
from lightning_omni.errors import OmniError
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.omni import _override_config
from lightning_omni.generation.python_values import (
    check_picture,
    check_text,
    waveform_as_floats,
)
from lightning_omni.generation.request import check_inputs
from lightning_omni.tasks import task_named

TONE = np.sin(np.arange(1600) / 6) / 2


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint8", "uint16"])
def test_integers_are_scaled_by_the_greatest_of_their_type(kind):
    limits = np.iinfo(kind)
    half, middle = (limits.max - limits.min) / 2, (limits.max + limits.min) / 2
    whole = (TONE * half + middle).round().astype(kind)
    assert np.abs(waveform_as_floats(whole, "x") - TONE).max() < 2 / half + 1e-6


def test_floats_tensors_and_lists_are_taken_as_they_are():
    for given in (TONE, TONE.astype(np.float32), torch.from_numpy(TONE), TONE.tolist()):
        made = waveform_as_floats(given, "x")
        assert made.dtype == np.float32
        assert np.allclose(made, TONE)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("x.wav", "x is a str"),
        ((TONE, 16_000), "x is a tuple"),
        (TONE > 0, "an array of bool"),
        (TONE.astype(np.complex64), "an array of complex64"),
        ((TONE * 32767).astype(np.int64), "an array of int64"),
        (np.array(["a"]), "an array of <U1"),
        ([[1.0], [1.0, 2.0]], "x is a list"),
    ],
)
def test_what_is_no_sound_is_refused(given, words):
    with pytest.raises(OmniError, match=words):
        waveform_as_floats(given, "x")


def test_what_is_no_picture_is_refused():
    raw = io.BytesIO()
    Image.effect_noise((300, 300), 90).save(raw, "PNG")
    cut = Image.open(io.BytesIO(raw.getvalue()[:900]))
    for given in (
        "a.png",
        Path("a.png"),
        b"x",
        np.zeros((8, 8, 3), np.uint8),
        torch.zeros(3, 8, 8),
    ):
        with pytest.raises(OmniError, match="wanted a PIL image"):
            check_picture(given, "image")
    with pytest.raises(OmniError, match="0 x 0 pixels"):
        check_picture(Image.new("RGB", (0, 0)), "image")
    with pytest.raises(OmniError, match="cannot be read"):
        check_picture(cut, "image")


@pytest.mark.parametrize("text", [3, b"x", ["x"]])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(OmniError, match="wanted text"):
        check_text(text, "text")
    with pytest.raises(OmniError, match="wanted text"):
        check_inputs(task_named("tqa"), {"text": text})


def test_a_text_of_invisible_characters_is_empty():
    with pytest.raises(OmniError, match="empty text"):
        check_inputs(task_named("tqa"), {"text": "\u200b\ufeff"})


def test_misspelt_options_wrong_numbers_tasks_and_folders_are_named():
    with pytest.raises(OmniError, match=r"'num_step' \(did you mean 'num_steps'\?\)"):
        _override_config(None, {"num_step": 1})
    for wrong in (2.0, True):
        with pytest.raises(OmniError, match="wanted an integer"):
            GenerationConfig(num_steps=wrong)
    for task in (3, None):
        with pytest.raises(OmniError, match="the task is"):
            task_named(task)
    for folder in (3, None):
        with pytest.raises(OmniError, match="wanted the folder of an exported model"):
            Omni.from_pretrained(folder)
