"""Entries read from a corpus, and their conversion to samples and media files."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.collection import Collection, MediaFile, image, make_sample, speech, text, turn
from data_prep.speech.recordings import to_flac
from lightning_omni.data.media import read_audio, read_image
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE, modality_named
from lightning_omni.types import Part, Turn

log = logging.getLogger(__name__)

MAX_UNREADABLE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image with its caption; becomes a t2i and a caption sample."""

    origin: str
    picture: Path | bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Transcribed:
    """A recording with its transcript; becomes an asr and a tts sample."""

    origin: str
    sound: Path | bytes
    words: str
    voice: str


@dataclass(frozen=True, slots=True)
class VisualQuestion:
    """A question about an image with its answer; becomes a vqa sample."""

    origin: str
    picture: Path | bytes
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class ContentPart:
    """Part of a conversation turn: text, or a file of a modality."""

    modality: str
    content: str | Path


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation; becomes a sample of `task`."""

    origin: str
    task: str
    turns: tuple[tuple[str, tuple[ContentPart, ...]], ...]


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row or file that cannot become a sample, and the reason."""

    origin: str
    reason: str


Usable = Captioned | Transcribed | VisualQuestion | Conversation
Entry = Usable | Unusable


def entry_or_reason(origin: str, make: Callable[[], Usable]) -> Entry:
    """Return the entry, or the reason why it is unusable, so that one bad row stops no corpus."""
    try:
        return make()
    except OmniError as error:
        return Unusable(origin, str(error))


@dataclass
class CorpusBuilder:
    """Converts entries to a collection.

    Attributes:
        corpus: Name of the layout, recorded in every sample.
        split: Split that the samples belong to.
        collection: Samples and media so far.
        good: Number of entries added.
        bad: Origin and error of each unusable entry.
    """

    corpus: str
    split: str
    collection: Collection = field(default_factory=Collection)
    good: int = 0
    bad: list[str] = field(default_factory=list)

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Add entries; unusable ones are counted and logged.

        Raises:
            OmniError: If there are no entries, or more than 5 % are unusable.
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
            raise OmniError(f"found no entries of a {self.corpus} corpus; check --source")
        if len(self.bad) > MAX_UNREADABLE_SHARE * total:
            raise OmniError(
                f"{len(self.bad)} of {total} entries are unusable, more than 5 %; "
                f"the first is {self.bad[0]}"
            )

    def _add(self, entry: Entry) -> None:
        if isinstance(entry, Unusable):
            raise OmniError(entry.reason)
        if isinstance(entry, Captioned):
            picture = self._image_file(entry.picture, entry.origin, entry.caption)
            meta = {"set": self.corpus, "caption": entry.caption}
            caption, shown = text(entry.caption), image(picture)
            self._add_sample(
                "t2i", meta, (turn("user", caption), turn("assistant", shown)), picture
            )
            self._add_sample(
                "caption", meta, (turn("user", shown), turn("assistant", caption)), picture
            )
        elif isinstance(entry, Transcribed):
            sound = self._recording_file(entry.sound, entry.origin, entry.words, entry.voice)
            meta = {"set": self.corpus, "text": entry.words, "voice": entry.voice}
            words, recording = text(entry.words), speech(sound)
            self._add_sample(
                "asr", meta, (turn("user", recording), turn("assistant", words)), sound
            )
            self._add_sample(
                "tts", meta, (turn("user", words), turn("assistant", recording)), sound
            )
        elif isinstance(entry, VisualQuestion):
            picture = self._image_file(entry.picture, entry.origin, "")
            meta = {"set": self.corpus, "question": entry.question, "answer": entry.answer}
            question = turn("user", text(entry.question), image(picture))
            self._add_sample(
                "vqa", meta, (question, turn("assistant", text(entry.answer))), picture
            )
        else:
            self._add_conversation(entry)

    def _add_conversation(self, entry: Conversation) -> None:
        media: list[MediaFile] = []
        turns: list[Turn] = []
        for role, lines in entry.turns:
            parts = []
            for line in lines:
                if line.modality == "text":
                    parts.append(text(str(line.content)))
                elif line.modality == "image":
                    media.append(self._image_file(Path(line.content), entry.origin, ""))
                    parts.append(image(media[-1]))
                elif line.modality == "speech":
                    media.append(self._recording_file(Path(line.content), entry.origin, "", ""))
                    parts.append(speech(media[-1]))
                else:
                    media.append(
                        self._media_from_path(line.modality, Path(line.content), entry.origin)
                    )
                    parts.append(Part(line.modality, key=media[-1].key))
            turns.append(turn(role, *parts))  # type: ignore[arg-type]
        self._add_sample(entry.task, {"set": self.corpus}, tuple(turns), *media)

    def _add_sample(
        self, task: str, meta: dict[str, str], turns: tuple[Turn, ...], *media: MediaFile
    ) -> None:
        self.collection.add(self.split, make_sample(task, *turns, meta=dict(meta)), *media)

    def _image_file(self, source: Path | bytes, origin: str, caption: str) -> MediaFile:
        raw = _read_bytes(source, origin)
        picture = read_image(raw, name=origin)
        extension = "jpg" if raw[:3] == b"\xff\xd8\xff" else "png"
        if extension == "png" and raw[:4] != b"\x89PNG":
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            raw = buffer.getvalue()
        return self._media_file("image", extension, raw, {"caption": caption})

    def _recording_file(
        self, source: Path | bytes, origin: str, words: str, voice: str
    ) -> MediaFile:
        wave = read_audio(_read_bytes(source, origin), sample_rate=SAMPLE_RATE, name=origin)
        facts = {"text": words, "voice": voice, "duration_s": f"{len(wave) / SAMPLE_RATE:.3f}"}
        return self._media_file("speech", "flac", to_flac(wave), facts)

    def _media_from_path(self, modality: str, source: Path, origin: str) -> MediaFile:
        suffix = modality_named(modality).suffix.removeprefix(".")
        return self._media_file(modality, suffix, _read_bytes(source, origin), {})

    def _media_file(
        self, modality: str, extension: str, raw: bytes, facts: dict[str, str]
    ) -> MediaFile:
        key = hashlib.sha256(raw).hexdigest()[:24]
        info = {**facts, "source": self.corpus, "licence": "see the corpus"}
        return MediaFile(key, modality, extension, info, lambda: raw)


def _read_bytes(source: Path | bytes, origin: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise OmniError(f"no file '{source}', which {origin} refers to") from error
