"""How published speech corpora name and write words and speakers."""

from __future__ import annotations

import re
from typing import Any

from lightning_omni.errors import OmniError

TEXTS = (
    "text",
    "transcript",
    "transcription",
    "sentence",
    "normalized_text",
    "text_normalized",
    "text_original",
    "raw_text",
)
"""Names of the words, the first that an utterance has counts."""
SPEAKERS = ("speaker", "speaker_id", "client_id")
_PUNCTUATION = {
    "<COMMA>": ",",
    "<PERIOD>": ".",
    "<QUESTIONMARK>": "?",
    "<EXCLAMATIONPOINT>": "!",
}
"""GigaSpeech's tags of punctuation."""
_NO_SPEECH = re.compile(r"<(?:SIL|MUSIC|NOISE|OTHER)>")
"""GigaSpeech's tags of utterances without words."""


def clean_transcript(words: str, origin: str) -> str:
    """Return a transcript without tags, in lower case if it was all in capitals.

    Raises:
        OmniError: If it has no words.
    """
    for tag, mark in _PUNCTUATION.items():
        words = words.replace(f" {tag}", mark).replace(tag, mark)
    plain = _NO_SPEECH.sub("", words).strip()
    if not any(character.isalnum() for character in plain):
        raise OmniError(f"'{origin}' has no words: '{words.strip()}'")
    return plain.lower() if plain.isupper() else plain


def speaker_voice_name(speaker: Any) -> str:
    """Return the name of a speaker's voice."""
    known = str(speaker).strip() if speaker is not None else ""
    return f"speaker-{known}" if known not in ("", "N/A", "None") else "speaker-unknown"
