"""Entries read from a corpus: what its files and rows hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning_omni.data.storage.locations import Location
from lightning_omni.errors import OmniError

_BYTES_PER_ENTRY = 100_000  # of a picture or a clip; to count what a damaged file held


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image with its caption; becomes a t2i and a caption sample."""

    origin: str
    picture: Location | bytes
    caption: str


@dataclass(frozen=True, slots=True)
class TranscribedSpeech:
    """A recording with its transcript; becomes an asr and a tts sample."""

    origin: str
    sound: Location | bytes
    words: str
    voice: str


@dataclass(frozen=True, slots=True)
class VisualQuestion:
    """A question about an image with its answer; becomes a vqa sample."""

    origin: str
    picture: Location | bytes
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class SpokenQuestion:
    """A spoken question with its answer in words and spoken; becomes an sqa sample."""

    origin: str
    question_sound: Location | bytes
    question: str
    answer_sound: Location | bytes
    answer: str
    voice: str
    answer_voice: str


@dataclass(frozen=True, slots=True)
class ContentPart:
    """Part of a conversation turn: text, or the content or file of a modality."""

    modality: str
    content: str | Location | bytes


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation; becomes a sample of `task`."""

    origin: str
    task: str
    turns: tuple[tuple[str, tuple[ContentPart, ...]], ...]


@dataclass(frozen=True, slots=True)
class UnusableEntry:
    """A row or file that cannot become a sample, and the reason.

    Attributes:
        origin: File and row.
        reason: What is wrong with it.
        entries: Number of entries that are lost with it, estimated for a damaged file.
    """

    origin: str
    reason: str
    entries: int = 1


UsableEntry = CaptionedImage | TranscribedSpeech | VisualQuestion | SpokenQuestion | Conversation


@dataclass(frozen=True, slots=True)
class DeferredEntry:
    """An entry that is made when it is needed, so that it costs little to pass it over.

    Attributes:
        origin: File and row.
        make: Makes the entry; raises OmniError if it is unusable.
    """

    origin: str
    make: Callable[[], UsableEntry]


Entry = UsableEntry | UnusableEntry | DeferredEntry


def make_entry(origin: str, make: Callable[[], UsableEntry]) -> Entry:
    """Return the entry, or the reason why it is unusable, so that one bad row stops no corpus."""
    try:
        return make()
    except OmniError as error:
        return UnusableEntry(origin, str(error))


def estimate_lost_entries(byte_count: int, known: int = 0, known_bytes: int = 0) -> int:
    """Estimate the number of entries in the unreadable part of a file.

    Args:
        byte_count: Bytes of the unreadable part.
        known: Number of entries in the readable part.
        known_bytes: Bytes of the readable part.
    """
    size = known_bytes / known if known and known_bytes else _BYTES_PER_ENTRY
    return max(1, round(byte_count / size))
