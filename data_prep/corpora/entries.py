"""What adapters read out of a corpus, and how it becomes samples and media."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from data_prep.collection import Collection, Media, image, make_sample, say, speech, text
from lightning_omni.data.media import read_audio, read_image
from lightning_omni.errors import OmniError
from lightning_omni.types import Turn

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
MAX_BAD_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture and what it shows: a t2i and a caption sample."""

    origin: str
    picture: Path | bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Transcribed:
    """A recording and its words: an asr and a tts sample."""

    origin: str
    sound: Path | bytes
    words: str
    voice: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a picture and its answer: a vqa sample."""

    origin: str
    picture: Path | bytes
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Line:
    """A piece of a conversation: text, or a file of a modality."""

    modality: str
    content: str | Path


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of any shape: a sample of the task they have the shape of, else of `chat`."""

    origin: str
    task: str
    turns: tuple[tuple[str, tuple[Line, ...]], ...]


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row or file that no sample can be made of, and why."""

    origin: str
    why: str


Usable = Captioned | Transcribed | Asked | Conversation
Entry = Usable | Unusable


def attempt(origin: str, make: Callable[[], Usable]) -> Entry:
    """The entry, or why there is none: one bad row shall not cost a corpus."""
    try:
        return make()
    except OmniError as error:
        return Unusable(origin, str(error))


@dataclass
class Gathered:
    """Entries added so far, and those that could not be."""

    corpus: str
    split: str
    collection: Collection = field(default_factory=Collection)
    good: int = 0
    bad: list[str] = field(default_factory=list)

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Add entries, counting and reporting the unreadable ones.

        Raises:
            OmniError: If there are none, or more than 5 % of them are unreadable.
        """
        for entry in entries:
            try:
                self._add(entry)
                self.good += 1
            except OmniError as error:
                self.bad.append(f"{entry.origin}: {error}")
                log.warning("left out %s: %s", entry.origin, error)
        total = self.good + len(self.bad)
        if total == 0:
            raise OmniError(f"found nothing of a {self.corpus} corpus there; check --source")
        if len(self.bad) > MAX_BAD_SHARE * total:
            raise OmniError(
                f"{len(self.bad)} of {total} entries are unusable, more than 5 %; "
                f"the first is {self.bad[0]}"
            )

    def _add(self, entry: Entry) -> None:
        if isinstance(entry, Unusable):
            raise OmniError(entry.why)
        if isinstance(entry, Captioned):
            picture = self._picture(entry.picture, entry.origin, entry.caption)
            meta = {"set": self.corpus, "caption": entry.caption}
            asked, shown = text(entry.caption), image(picture)
            self._sample("t2i", meta, (say("user", asked), say("assistant", shown)), picture)
            self._sample("caption", meta, (say("user", shown), say("assistant", asked)), picture)
        elif isinstance(entry, Transcribed):
            sound = self._sound(entry.sound, entry.origin, entry.words, entry.voice)
            meta = {"set": self.corpus, "text": entry.words, "voice": entry.voice}
            words, heard = text(entry.words), speech(sound)
            self._sample("asr", meta, (say("user", heard), say("assistant", words)), sound)
            self._sample("tts", meta, (say("user", words), say("assistant", heard)), sound)
        elif isinstance(entry, Asked):
            picture = self._picture(entry.picture, entry.origin, "")
            meta = {"set": self.corpus, "question": entry.question, "answer": entry.answer}
            question = say("user", text(entry.question), image(picture))
            self._sample("vqa", meta, (question, say("assistant", text(entry.answer))), picture)
        else:
            self._converse(entry)

    def _converse(self, entry: Conversation) -> None:
        media: list[Media] = []
        turns: list[Turn] = []
        for role, lines in entry.turns:
            parts = []
            for line in lines:
                if line.modality == "text":
                    parts.append(text(str(line.content)))
                elif line.modality == "image":
                    media.append(self._picture(Path(line.content), entry.origin, ""))
                    parts.append(image(media[-1]))
                else:
                    media.append(self._sound(Path(line.content), entry.origin, "", ""))
                    parts.append(speech(media[-1]))
            turns.append(say(role, *parts))  # type: ignore[arg-type]
        self._sample(entry.task, {"set": self.corpus}, tuple(turns), *media)

    def _sample(self, task: str, meta: dict[str, str], turns: tuple[Turn, ...], *m: Media) -> None:
        self.collection.add(self.split, make_sample(task, *turns, meta=dict(meta)), *m)

    def _picture(self, source: Path | bytes, origin: str, caption: str) -> Media:
        raw = _bytes(source, origin)
        picture = read_image(raw, name=origin)
        extension = "jpg" if raw[:3] == b"\xff\xd8\xff" else "png"
        if extension == "png" and raw[:4] != b"\x89PNG":
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            raw = buffer.getvalue()
        return self._media("image", extension, raw, {"caption": caption})

    def _sound(self, source: Path | bytes, origin: str, words: str, voice: str) -> Media:
        wave = read_audio(_bytes(source, origin), sample_rate=SAMPLE_RATE, name=origin)
        about = {"text": words, "voice": voice, "duration_s": f"{len(wave) / SAMPLE_RATE:.3f}"}
        return self._media("speech", "flac", flac(wave), about)

    def _media(self, modality: str, extension: str, raw: bytes, about: dict[str, str]) -> Media:
        key = hashlib.sha256(raw).hexdigest()[:24]
        info = {**about, "source": self.corpus, "licence": "see the corpus"}
        return Media(key, modality, extension, info, lambda: raw)


def flac(wave: NDArray[np.float32]) -> bytes:
    """Encode 16 kHz mono samples losslessly to 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _bytes(source: Path | bytes, origin: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise OmniError(f"no file '{source}', named by {origin}") from error
