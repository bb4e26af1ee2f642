"""Speech synthesis with espeak-ng from the Python package espeakng-loader, on every platform."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import IO

import numpy as np
from numpy.typing import NDArray

from lightning_omni.errors import OmniError


class Espeak:
    """An espeak-ng worker process; see `espeak_worker`.

    Attributes:
        sample_rate: Sample rate of its output in Hz.

    Raises:
        OmniError: If the worker does not start.
    """

    def __init__(self) -> None:
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "data_prep.speech.espeak_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        first = self._require_pipe(self._worker.stdout).readline()
        self.sample_rate = int(first) if first.strip().isdigit() else 0
        if self.sample_rate <= 0:
            raise OmniError("espeak-ng does not start; reinstall espeakng-loader")

    def synthesize(self, text: str, voice: str) -> NDArray[np.float32]:
        """Synthesize a sentence with an espeak voice such as `en-us` or `en-us+f3`.

        Raises:
            OmniError: If the voice is unknown or the text cannot be spoken.
        """
        stdin, stdout = (
            self._require_pipe(self._worker.stdin),
            self._require_pipe(self._worker.stdout),
        )
        stdin.write(f"{voice}\t{' '.join(text.split())}\n".encode())
        stdin.flush()
        count = int(stdout.readline() or b"0")
        if count == 0:
            raise OmniError(f"espeak-ng could not speak '{text}' with voice '{voice}'")
        return np.frombuffer(stdout.read(count), dtype=np.int16).astype(np.float32) / 32768.0

    def close(self) -> None:
        """Stop the worker process."""
        self._require_pipe(self._worker.stdin).close()
        self._require_pipe(self._worker.stdout).close()
        self._worker.wait()

    @staticmethod
    def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise OmniError("the espeak-ng worker has no pipe")
        return pipe


@cache
def shared_espeak() -> Espeak:
    """Return the worker of this process, started on first use."""
    return Espeak()


def close_espeak() -> None:
    """Stop the worker if it was started."""
    if shared_espeak.cache_info().currsize:
        shared_espeak().close()
        shared_espeak.cache_clear()
