"""Speech synthesizers: flite where available, espeak-ng on every platform."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from data_prep.sources import DEB_SOURCES, PIP_SOURCES, SourceError, Sources
from data_prep.speech.espeak import shared_espeak
from data_prep.speech.recordings import normalize_recording
from lightning_omni.errors import OmniError

FALLBACK_VOICES = {
    "flite-rms": "espeak-en-us",
    "flite-slt": "espeak-en-us-m3",
    "flite-kal16": "espeak-en",
    "flite-awb": "espeak-en-gb-scotland",
}
"""espeak-ng voice that replaces each flite voice where flite is not available."""


@dataclass(frozen=True, slots=True)
class Flite:
    """The flite program.

    Attributes:
        program: Name or path of the executable.
        libraries: Folder of its shared libraries; None for those of the system.
    """

    program: str
    libraries: str | None

    def synthesize(self, text: str, voice: str) -> tuple[NDArray[np.float32], int]:
        """Return samples of a sentence and their sample rate.

        Raises:
            OmniError: If flite fails.
        """
        environment = {**os.environ}
        if self.libraries is not None:
            environment["LD_LIBRARY_PATH"] = self.libraries
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/clip.wav"
            command = [self.program, "-voice", voice, "-t", text, "-o", path]
            done = subprocess.run(command, env=environment, capture_output=True, check=False)
            if done.returncode != 0 or not Path(path).is_file():
                raise OmniError(f"flite could not speak '{text}' with voice '{voice}'")
            wave, rate = soundfile.read(path, dtype="float32")
        return wave, rate


class Synthesizers:
    """All synthesizers behind one call, by voice name: `flite-rms`, `espeak-en-us`, ..."""

    def __init__(self, flite: Flite | None) -> None:
        self._flite = flite

    @classmethod
    def find_engines(
        cls, wanted: set[str], sources: Sources
    ) -> tuple[Synthesizers, dict[str, str]]:
        """Set up the engines; the second value maps each wanted voice to the one available."""
        flite = None
        if any(voice.startswith("flite-") for voice in wanted):
            try:
                flite = find_flite(sources)
            except SourceError as error:
                sources.provenance.record_fallback(f"espeak-ng speaks for flite: {error}")
        chosen = {v: v if flite or v not in FALLBACK_VOICES else FALLBACK_VOICES[v] for v in wanted}
        if any(voice.startswith("espeak-") for voice in chosen.values()):
            sources.find_pip_folder("espeak")
        return cls(flite), chosen

    def synthesize(self, text: str, voice: str) -> NDArray[np.float32]:
        """Return a sentence at 16 kHz, trimmed and at a common loudness.

        Raises:
            OmniError: If there is no synthesizer for the voice, or it fails.
        """
        engine, _, name = voice.partition("-")
        if engine == "flite" and self._flite is not None:
            wave, rate = self._flite.synthesize(text, name)
        elif engine == "espeak":
            wave, rate = (
                shared_espeak().synthesize(text, _espeak_voice_name(name)),
                shared_espeak().sample_rate,
            )
        else:
            raise OmniError(f"no synthesizer for voice '{voice}'; wanted flite-* or espeak-*")
        return normalize_recording(wave, rate)


def find_flite(sources: Sources) -> Flite:
    """Find flite on PATH, else in unpacked Debian packages.

    Raises:
        SourceError: If neither works.
    """
    if shutil.which("flite"):
        flite = Flite("flite", None)
        sources.provenance.record_source(DEB_SOURCES["flite"], "from PATH")
    else:
        program = sources.fetch_deb_folder("flite") / "usr" / "bin" / "flite"
        libraries = sorted(
            (sources.fetch_deb_folder("libflite") / "usr" / "lib").glob("*/libflite.so.1")
        )
        if not libraries:
            raise SourceError(f"libflite1 holds no library for {platform.machine()}")
        flite = Flite(str(program), str(libraries[0].parent))
    try:
        flite.synthesize("yes", "rms")
    except (OSError, OmniError) as error:
        raise SourceError(f"flite does not run here ({error})") from error
    return flite


def voice_source_and_licence(voice: str) -> tuple[str, str]:
    """Return source and licence of a voice's speech."""
    is_flite = voice.startswith("flite-")
    source = DEB_SOURCES["flite"] if is_flite else PIP_SOURCES["espeak"]
    return source.name, source.licence


def _espeak_voice_name(name: str) -> str:
    """Map `en-us-f3`, which is also a file name, to espeak's `en-us+f3`."""
    head, _, variant = name.rpartition("-")
    return f"{head}+{variant}" if variant[:1] in "fm" and variant[1:].isdigit() else name
