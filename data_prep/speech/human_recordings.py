"""Human recordings, for testing only: telephone prompts and passages of LibriVox books."""

from __future__ import annotations

import functools
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from data_prep.emojiworld.sentences import normalize_sentence
from data_prep.hashing import sha1_hex
from data_prep.media_file import MediaFile
from data_prep.sources import DEB_SOURCES, SourceError, Sources
from data_prep.speech.recordings import encode_flac, normalize_recording
from lightning_omni.modalities import SAMPLE_RATE

PROMPT_VOICE = "human-allison"
BOOK_VOICE = "human-librivox"
_MIN_WORDS = 3


def load_human_recordings(sources: Sources) -> list[MediaFile]:
    """Load all available recordings; missing sources are recorded as fallbacks."""
    found: list[MediaFile] = []
    for load in (_load_telephone_prompts, _load_book_passages):
        try:
            found += load(sources)
        except (SourceError, ImportError) as error:
            sources.provenance.record_fallback(f"human speech is left out: {error}")
    return found


def _load_telephone_prompts(sources: Sources) -> Iterator[MediaFile]:
    root = sources.fetch_deb_folder("prompts") / "usr/share/asterisk/sounds/en_US_f_Allison"
    name = DEB_SOURCES["prompts-text"].name
    listing = (
        sources.fetch_deb_folder("prompts-text") / f"usr/share/doc/{name}/core-sounds-en.txt.gz"
    )
    with gzip.open(listing, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, words = line.strip().partition(":")
            path = root / f"{name.strip()}.g722"
            if path.is_file() and _is_sentence(line, words):
                yield _recording_media_file(path, words, PROMPT_VOICE, "prompts")


def _is_sentence(line: str, words: str) -> bool:
    """Tell whether a prompt is a sentence and not a comment, a noise or a spelled number."""
    plain = re.fullmatch(r"[A-Za-z ,.'?!-]+", words.strip()) is not None
    return (
        not line.startswith(";") and plain and len(normalize_sentence(words).split()) >= _MIN_WORDS
    )


def _load_book_passages(sources: Sources) -> Iterator[MediaFile]:
    folder = sources.fetch_deb_folder("librivox") / "usr/share/pocketsphinx/test/data/librivox"
    for line in (folder / "transcription").read_text("utf-8").splitlines():
        matched = re.match(r"<s> (.*) </s> \((.*)\)", line)
        if matched is not None:
            yield _recording_media_file(
                folder / f"{matched[2]}.wav", matched[1], BOOK_VOICE, "librivox"
            )


def _recording_media_file(path: Path, words: str, voice: str, source: str) -> MediaFile:
    wave, rate = (
        _read_g722(path) if path.suffix == ".g722" else soundfile.read(path, dtype="float32")
    )
    normalized = normalize_recording(wave, rate)
    info = {
        "text": normalize_sentence(words),
        "voice": voice,
        "source": DEB_SOURCES[source].name,
        "licence": DEB_SOURCES[source].licence,
        "duration_s": len(normalized) / SAMPLE_RATE,
    }
    key = sha1_hex("human", voice, path.stem)[:24]
    return MediaFile(key, "speech", "flac", info, functools.partial(encode_flac, normalized))


def _read_g722(path: Path) -> tuple[NDArray[np.float32], int]:
    import av

    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
        rate = int(container.streams.audio[0].rate)
    return np.concatenate(frames).astype(np.float32) / 32768.0, rate
