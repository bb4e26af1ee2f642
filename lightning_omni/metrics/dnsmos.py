"""Speech quality without a reference: DNSMOS, run locally."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE

WINDOW = 144_160  # samples of the network's input: 9.01 s
_OVERALL = (-0.06766283, 1.11546468, 0.04602535)  # polynomial of the raw score, highest power first
_WEIGHTS_PACKAGE = "speechmos"


class DNSMOS:
    """Estimates the mean opinion score of listeners, 1 (bad) to 5 (excellent).

    A recording shorter than the network's window is repeated to fill it; of a longer one, whole
    windows are averaged.

    Raises:
        OmniError: If the `eval` extra is not installed.

    Source: DNSMOS P.835, arXiv:2110.01763.
    """

    def __init__(self) -> None:
        spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
        try:
            import onnxruntime
        except ImportError:
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise OmniError("DNSMOS needs the eval extra; pip install 'lightning-omni[eval]'")
        folder = Path(next(iter(spec.submodule_search_locations)))
        self._session = onnxruntime.InferenceSession(
            str(folder / "dnsmos_models" / "sig_bak_ovr.onnx"), providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def overall(self, wave: NDArray[np.float32], sample_rate: int) -> float:
        """Score mono samples in [-1, 1].

        Raises:
            OmniError: If there are no samples.
        """
        if len(wave) == 0:
            raise OmniError("no speech to score: 0 samples")
        if sample_rate != SAMPLE_RATE:
            wave = soxr.resample(wave, sample_rate, SAMPLE_RATE)
        repeated = np.tile(wave, -(-WINDOW // len(wave)))
        count = len(repeated) // WINDOW
        windows = repeated[: count * WINDOW].reshape(count, WINDOW).astype(np.float32)
        raw = [self._session.run(None, {self._input: w[None]})[0][0][2] for w in windows]
        return float(np.polyval(_OVERALL, np.asarray(raw)).mean())
