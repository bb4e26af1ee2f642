"""Word and character error counts, with empty hypotheses counted as deletions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Number of edits between a hypothesis and its reference, and the reference's length."""

    errors: int
    length: int


def normalize_transcript(text: str) -> str:
    """Lower case, letters, digits and apostrophes only, single spaces."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def word_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Count substitutions, deletions and insertions of words after `normalize_transcript`.

    Raises:
        ValueError: If the reference has no words.
    """
    return _count_errors("words", reference, hypothesis)


def character_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Count substitutions, deletions and insertions of characters, spaces included.

    Raises:
        ValueError: If the reference has no characters.
    """
    return _count_errors("characters", reference, hypothesis)


def _count_errors(
    unit: Literal["words", "characters"], reference: str, hypothesis: str
) -> ErrorCount:
    expected = normalize_transcript(reference)
    if not expected:
        raise ValueError(f"reference '{reference}' has no {unit}; a rate is not defined")
    import jiwer

    count = jiwer.process_words if unit == "words" else jiwer.process_characters
    found = count(expected, normalize_transcript(hypothesis))
    length = len(expected.split() if unit == "words" else expected)
    return ErrorCount(found.substitutions + found.deletions + found.insertions, length)
