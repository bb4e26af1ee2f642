"""Converts the entries of a corpus to samples and media files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from data_prep.collection import Collection
from data_prep.corpora.entries import (
    CaptionedImage,
    ContentPart,
    Conversation,
    DeferredEntry,
    Entry,
    SpokenQuestion,
    TranscribedSpeech,
    UnusableEntry,
    VisualQuestion,
)
from data_prep.media_file import MediaFile
from data_prep.samples import image_part, make_sample, make_turn, speech_part, text_part
from data_prep.speech.recordings import encode_flac
from data_prep.tally import Tally
from lightning_omni.argument_checks import is_blank
from lightning_omni.data.media import MAX_FILE_BYTES, read_audio, read_image
from lightning_omni.data.storage.locations import Location, read_limited
from lightning_omni.errors import OmniError
from lightning_omni.modalities import SAMPLE_RATE, modality_named
from lightning_omni.types import Part, Sample, Turn

_SILENCE = 1e-4
"""Greatest sample of a recording in which nothing is said: three steps of 16 bits."""


MAX_TEXT_LENGTH = 1_000_000
"""Most characters of a text."""


class SampleSink(Protocol):
    """Takes samples and media; collections and writers of pieces do."""

    def add_sample(self, split: str, sample: Sample, *media: MediaFile) -> None:
        """Add a sample with its media."""


@dataclass
class CorpusBuilder:
    """Converts entries to samples of a collection.

    Attributes:
        corpus: Name of the layout, recorded in every sample.
        split: Split that the samples belong to.
        collection: Samples and media so far.
        tasks: Tasks to make samples of; none for all.
        tally: What became of the entries.
    """

    corpus: str
    split: str
    collection: SampleSink = field(default_factory=Collection)
    tasks: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)

    def add_entries(
        self,
        entries: Iterable[Entry],
        *,
        is_first: bool = True,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Add entries; unusable ones are counted and logged.

        Args:
            entries: The entries.
            is_first: Whether they begin the corpus, so that too many unusable ones are noticed.
            on_progress: Called with 1 behind each entry.

        Raises:
            UnusableCorpusError: If too many of the rows are unusable, at 1,000 or later.
        """
        for entry in entries:
            try:
                self._add_entry(entry)
                self.tally.good += 1
            except OmniError as error:
                lost = entry.entries if isinstance(entry, UnusableEntry) else 1
                checked = len(self.tally.good_before)
                self.tally.leave_out(entry.origin, str(error), lost)
                if is_first:
                    self.tally.check_rows(checked)
            on_progress(1)

    def _add_entry(self, entry: Entry) -> None:
        if isinstance(entry, DeferredEntry):
            entry = entry.make()
        if isinstance(entry, UnusableEntry):
            raise OmniError(entry.reason)
        if isinstance(entry, CaptionedImage):
            self._add_captioned(entry)
        elif isinstance(entry, TranscribedSpeech):
            self._add_transcribed(entry)
        elif isinstance(entry, VisualQuestion):
            self._add_visual_question(entry)
        elif isinstance(entry, SpokenQuestion):
            self._add_spoken_question(entry)
        else:
            self._add_conversation(entry)

    def _add_captioned(self, entry: CaptionedImage) -> None:
        caption = text_part(_require_text(entry.caption, "caption"))
        picture = self._make_image_file(entry.picture, entry.origin, entry.caption)
        meta, shown = {"set": self.corpus, "caption": entry.caption}, image_part(picture)
        self._add_sample(
            "t2i", meta, (make_turn("user", caption), make_turn("assistant", shown)), picture
        )
        self._add_sample(
            "caption", meta, (make_turn("user", shown), make_turn("assistant", caption)), picture
        )

    def _add_transcribed(self, entry: TranscribedSpeech) -> None:
        words = text_part(_require_text(entry.words, "transcript"))
        sound = self._make_recording_file(entry.sound, entry.origin, entry.words, entry.voice)
        meta = {"set": self.corpus, "text": entry.words, "voice": entry.voice}
        recording = speech_part(sound)
        self._add_sample(
            "asr", meta, (make_turn("user", recording), make_turn("assistant", words)), sound
        )
        self._add_sample(
            "tts", meta, (make_turn("user", words), make_turn("assistant", recording)), sound
        )

    def _add_visual_question(self, entry: VisualQuestion) -> None:
        asked = text_part(_require_text(entry.question, "question"))
        answer = text_part(_require_text(entry.answer, "answer"))
        picture = self._make_image_file(entry.picture, entry.origin, "")
        meta = {"set": self.corpus, "question": entry.question, "answer": entry.answer}
        turns = (make_turn("user", asked, image_part(picture)), make_turn("assistant", answer))
        self._add_sample("vqa", meta, turns, picture)

    def _add_spoken_question(self, entry: SpokenQuestion) -> None:
        question = _require_text(entry.question, "question")
        answer = _require_text(entry.answer, "answer")
        asked = self._make_recording_file(entry.question_sound, entry.origin, question, entry.voice)
        spoken = self._make_recording_file(
            entry.answer_sound, entry.origin, answer, entry.answer_voice
        )
        meta = {
            "set": self.corpus,
            "question": question,
            "answer": answer,
            "text": question,
            "voice": entry.voice,
            "answer_text": answer,
            "answer_voice": entry.answer_voice,
        }
        turns = (
            make_turn("user", speech_part(asked)),
            make_turn("assistant", text_part(answer), speech_part(spoken)),
        )
        self._add_sample("sqa", meta, turns, asked, spoken)

    def _add_conversation(self, entry: Conversation) -> None:
        media: list[MediaFile] = []
        turns: list[Turn] = []
        for role, lines in entry.turns:
            parts = []
            for line in lines:
                if line.modality == "text":
                    parts.append(text_part(_require_text(str(line.content), "text")))
                elif line.modality == "image":
                    media.append(self._make_image_file(_content_source(line), entry.origin, ""))
                    parts.append(image_part(media[-1]))
                elif line.modality == "speech":
                    media.append(
                        self._make_recording_file(_content_source(line), entry.origin, "", "")
                    )
                    parts.append(speech_part(media[-1]))
                else:
                    media.append(
                        self._make_modality_file(line.modality, _content_source(line), entry.origin)
                    )
                    parts.append(Part(line.modality, key=media[-1].key))
            if not parts:
                raise OmniError(f"a turn of the {role} is empty")
            turns.append(make_turn(role, *parts))  # type: ignore[arg-type]
        if all(role != "assistant" for role, _ in entry.turns):
            raise OmniError("no turn is the assistant's, so there is nothing to learn")
        self._add_sample(entry.task, {"set": self.corpus}, tuple(turns), *media)

    def _add_sample(
        self, task: str, meta: dict[str, str], turns: tuple[Turn, ...], *media: MediaFile
    ) -> None:
        if not self.tasks or task in self.tasks:
            self.collection.add_sample(
                self.split, make_sample(task, *turns, meta=dict(meta)), *media
            )

    def _make_image_file(self, source: Location | bytes, origin: str, caption: str) -> MediaFile:
        raw = _read_bytes(source, origin)
        picture = read_image(raw, name=origin)
        extension = "jpg" if raw[:3] == b"\xff\xd8\xff" else "png"
        if extension == "png" and raw[:4] != b"\x89PNG":
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            raw = buffer.getvalue()
        return self._make_media_file("image", extension, raw, {"caption": caption})

    def _make_recording_file(
        self, source: Location | bytes, origin: str, words: str, voice: str
    ) -> MediaFile:
        wave = read_audio(_read_bytes(source, origin), sample_rate=SAMPLE_RATE, name=origin)
        if words and not np.abs(wave).max() > _SILENCE:
            raise OmniError(f"'{origin}' is silent, but has the words '{words[:40]}'")
        facts = {"text": words, "voice": voice, "duration_s": f"{len(wave) / SAMPLE_RATE:.3f}"}
        return self._make_media_file("speech", "flac", encode_flac(wave), facts)

    def _make_modality_file(
        self, modality: str, source: Location | bytes, origin: str
    ) -> MediaFile:
        suffix = modality_named(modality).suffix.removeprefix(".")
        return self._make_media_file(modality, suffix, _read_bytes(source, origin), {})

    def _make_media_file(
        self, modality: str, extension: str, raw: bytes, facts: dict[str, str]
    ) -> MediaFile:
        key = hashlib.sha256(raw).hexdigest()[:24]
        info = {**facts, "source": self.corpus, "licence": "see the corpus"}
        return MediaFile(key, modality, extension, info, lambda: raw)


def _require_text(words: str, name: str) -> str:
    if len(words) > MAX_TEXT_LENGTH:
        raise OmniError(
            f"the {name} has {len(words):,} characters, at most {MAX_TEXT_LENGTH:,} are taken"
        )
    if is_blank(words):
        raise OmniError(f"the {name} is blank")
    return words


def _content_source(part: ContentPart) -> Location | bytes:
    return Path(part.content) if isinstance(part.content, str) else part.content


def _read_bytes(source: Location | bytes, origin: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return read_limited(source, limit=MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # a name may hold a zero byte
        raise OmniError(f"no file '{source}', which {origin} refers to") from error
