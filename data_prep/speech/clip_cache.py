"""Cache of synthetic speech: each (sentence, voice) is synthesized once and kept on disk."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from data_prep.hashing import sha1_hex
from data_prep.speech.recordings import encode_flac
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE

log = logging.getLogger(__name__)

_VERSION = "1"  # raise when synthesis changes, so that older cache entries are not used


class SupportsSynthesize(Protocol):
    """Anything that synthesizes speech, such as `Synthesizers`."""

    def synthesize(self, text: str, voice: str) -> NDArray[np.float32]:
        """Return a sentence at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A synthetic recording of a sentence.

    Attributes:
        key: Hash of text and voice.
        text: Sentence that is said.
        voice: Name of the voice.
        path: FLAC file in the cache; it exists after `ClipCache.synthesize_requested`.
    """

    key: str
    text: str
    voice: str
    path: Path

    @classmethod
    def in_folder(cls, text: str, voice: str, folder: Path) -> Clip:
        """Return the clip of a sentence and a voice in a folder of clips."""
        key = sha1_hex("clip", _VERSION, text, voice)[:24]
        return cls(key, text, voice, folder / voice / key[:2] / f"{key}.flac")

    def read_flac(self) -> bytes:
        """Return the bytes of the FLAC file."""
        return self.path.read_bytes()

    def duration_s(self) -> float:
        """Return the length in seconds."""
        info = soundfile.info(io.BytesIO(self.read_flac()))
        return float(info.frames / SAMPLE_RATE)


@dataclass
class ClipCache:
    """Collects requests for clips, then synthesizes those that are not cached.

    Attributes:
        synthesizers: Speech synthesizers.
        folder: Folder of the clips.
        clips: All requested clips by key.
    """

    synthesizers: SupportsSynthesize
    folder: Path
    clips: dict[str, Clip] = field(default_factory=dict)

    def request_clip(self, text: str, voice: str) -> Clip:
        """Request a clip; its file exists after `synthesize_requested`."""
        clip = Clip.in_folder(text, voice, self.folder)
        return self.clips.setdefault(clip.key, clip)

    def synthesize_requested(self) -> int:
        """Synthesize all requested clips that are not cached; return their number.

        Flite runs as a separate program, so several threads call it in parallel; espeak-ng has
        global state and is called from this thread only.
        """
        missing = [clip for clip in self._sorted_clips() if not clip.path.is_file()]
        flite = [clip for clip in missing if clip.voice.startswith("flite-")]
        if flite:
            with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
                list(pool.map(self._synthesize_clip, flite))
        for clip in missing:
            if not clip.voice.startswith("flite-"):
                self._synthesize_clip(clip)
        log.info("speech cache: %d clips, %d newly synthesized", len(self.clips), len(missing))
        return len(missing)

    def _sorted_clips(self) -> Iterable[Clip]:
        return (self.clips[key] for key in sorted(self.clips))

    def _synthesize_clip(self, clip: Clip) -> None:
        synthesize_clip(clip, self.synthesizers)


def synthesize_clip(clip: Clip, synthesizer: SupportsSynthesize) -> None:
    """Synthesize a clip unless its file exists.

    Raises:
        OmniError: If the synthesizer fails.
    """
    if clip.path.is_file():
        return
    try:
        flac = encode_flac(synthesizer.synthesize(clip.text, clip.voice))
    except OmniError as error:
        raise OmniError(f"voice '{clip.voice}' on '{clip.text}': {error}") from error
    clip.path.parent.mkdir(parents=True, exist_ok=True)
    partial = clip.path.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(flac)
    partial.replace(clip.path)
