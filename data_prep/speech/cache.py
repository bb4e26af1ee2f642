"""Every sentence that is spoken, once per voice, on disk between builds."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from data_prep.emojiworld.splits import digest
from data_prep.speech.synthesizers import SAMPLE_RATE, Voices, to_flac
from lightning_omni.errors import OmniError

log = logging.getLogger(__name__)

_RECIPE = "1"  # raise when the sound of a clip changes, so that old cache entries are not used


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording of a sentence. Synthetic clips are keyed by (text, voice)."""

    key: str
    text: str
    voice: str
    path: Path

    def read(self) -> bytes:
        """FLAC bytes."""
        return self.path.read_bytes()

    def duration_s(self) -> float:
        """Length in seconds."""
        info = soundfile.info(io.BytesIO(self.read()))
        return float(info.frames / SAMPLE_RATE)


@dataclass
class SpeechBank:
    """Collects what must be spoken, then speaks what the cache lacks.

    Attributes:
        voices: The synthesizers.
        folder: Where clips are kept.
        clips: Everything asked for, by key.
    """

    voices: Voices
    folder: Path
    clips: dict[str, Clip] = field(default_factory=dict)

    def want(self, text: str, voice: str) -> Clip:
        """Ask for a clip. It exists after `synthesize`."""
        key = digest("clip", _RECIPE, text, voice)[:24]
        if key not in self.clips:
            path = self.folder / voice / key[:2] / f"{key}.flac"
            self.clips[key] = Clip(key, text, voice, path)
        return self.clips[key]

    def synthesize(self) -> int:
        """Speak every clip the cache lacks and return how many that were.

        Flite runs as a program of its own, so threads keep the cores busy; espeak-ng has global
        state and stays on this thread.
        """
        missing = [clip for clip in self._in_order() if not clip.path.is_file()]
        flite = [clip for clip in missing if clip.voice.startswith("flite-")]
        if flite:
            with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
                list(pool.map(self._make, flite))
        for clip in missing:
            if not clip.voice.startswith("flite-"):
                self._make(clip)
        log.info("speech bank: %d clips, %d newly spoken", len(self.clips), len(missing))
        return len(missing)

    def _in_order(self) -> Iterable[Clip]:
        return (self.clips[key] for key in sorted(self.clips))

    def _make(self, clip: Clip) -> None:
        try:
            flac = to_flac(self.voices.say(clip.text, clip.voice))
        except OmniError as error:
            raise OmniError(f"voice '{clip.voice}' on '{clip.text}': {error}") from error
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        partial = clip.path.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(flac)
        partial.replace(clip.path)
