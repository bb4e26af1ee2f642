"""Synthesizers for tests, found by `class_path`: a tone whose pitch is a hash of text and voice."""

import os
from multiprocessing import parent_process

import numpy as np

from data_prep.hashing import hash_bucket
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE


class Tone:
    """Speaks a tone; refuses texts with a word, and speaks those with another too long."""

    licence = "CC0-1.0"

    def __init__(self, voices=3, refused="unspeakable", slow="slowly"):
        self.question_voices = [f"tone-{i}" for i in range(voices)]
        self.answer_voice = "tone-answer"
        self._refused, self._slow = refused, slow

    def synthesize(self, text, voice):
        if self._refused in text:
            raise OmniError("no such sound")
        pitch = 200 + hash_bucket(text, voice, num_buckets=600)
        seconds = 61 if self._slow in text else 0.2 + 0.02 * len(text.split())
        time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        return (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


class Mute:
    """No synthesizer: it has no voices."""


class Dying(Tone):
    """Ends a worker process instead of speaking."""

    def synthesize(self, text, voice):
        if parent_process() is not None:
            os._exit(1)
        return super().synthesize(text, voice)
