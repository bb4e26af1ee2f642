"""Word and character error counts, with empty hypotheses counted as deletions."""

from __future__ import annotations

import re
from dataclasses import dataclass


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
    words = normalize_transcript(reference)
    if not words:
        raise ValueError(f"reference '{reference}' has no words; a rate is not defined")
    import jiwer

    found = jiwer.process_words(words, normalize_transcript(hypothesis))
    return ErrorCount(found.substitutions + found.deletions + found.insertions, len(words.split()))


def character_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Count substitutions, deletions and insertions of characters, spaces included.

    Raises:
        ValueError: If the reference has no characters.
    """
    characters = normalize_transcript(reference)
    if not characters:
        raise ValueError(f"reference '{reference}' has no characters; a rate is not defined")
    import jiwer

    found = jiwer.process_characters(characters, normalize_transcript(hypothesis))
    return ErrorCount(found.substitutions + found.deletions + found.insertions, len(characters))


def error_rate(counts: list[ErrorCount]) -> float:
    """Return all errors over all reference lengths; may exceed 1."""
    return sum(c.errors for c in counts) / sum(c.length for c in counts)
