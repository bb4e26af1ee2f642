"""Inputs of `lightning_omni generate`: which are the request's and which the infill's."""

import pytest

from lightning_omni.errors import OmniError
from lightning_omni.generation.command import InputFiles, parse_intervals
from lightning_omni.tasks import task_named


def assigned(task, **given):
    return InputFiles(**given).assign_to_infill(task_named(task))


def test_inputs_that_a_task_does_not_take_are_the_infill():
    drawn = assigned("t2i", text="a ___", image="own.png", mask="m.png")
    assert (drawn.text, drawn.image, drawn.infill_image) == ("a ___", None, "own.png")
    written = assigned("caption", text="a ___", image="own.png", mask="m.png")
    assert (written.text, written.infill_text) == (None, "a ___")
    assert (written.image, written.infill_image) == ("own.png", None)
    spoken = assigned("tts", text="hi", audio="own.wav", intervals="0-1")
    assert (spoken.audio, spoken.infill_audio) == (None, "own.wav")
    transcribed = assigned("asr", audio="own.wav", intervals="0-1")
    assert (transcribed.audio, transcribed.infill_audio) == ("own.wav", None)
    both = assigned("sqa", audio="own.wav", infill_audio="other.wav", intervals="0-1")
    assert (both.audio, both.infill_audio) == ("own.wav", "other.wav")


def test_a_mask_or_intervals_without_a_file_are_refused():
    with pytest.raises(OmniError, match="--mask is given without"):
        assigned("t2i", text="x", mask="m.png")
    with pytest.raises(OmniError, match="--intervals is given without"):
        assigned("tts", text="x", intervals="0-1")


def test_intervals_are_seconds():
    assert parse_intervals("0.5-1.2, 2-2.4,.1-3") == [(0.5, 1.2), (2, 2.4), (0.1, 3)]
    for wrong in ("", "1", "1-", "1-2-3", "a-b", "1-2,"):
        with pytest.raises(OmniError, match="wanted seconds such as"):
            parse_intervals(wrong)
