"""Text as it is compared: case, punctuation, articles and number words do not decide an answer."""

from __future__ import annotations

import re

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {word: value for value, word in enumerate(_UNITS)}
_NUMBERS |= {word: 10 * value for value, word in enumerate(_TENS, start=2)}
_SPELLINGS = {"colour": "color", "colours": "colors", "grey": "gray", "aluminium": "aluminum"}
_ARTICLES = frozenset(("a", "an", "the"))
_WORD = re.compile(r"[\w']+")


def words(text: str) -> list[str]:
    """Split into lower-case words: hyphens part them, numbers are digits, spelling American."""
    raw = [w.strip("'_") for w in _WORD.findall(text.lower().replace("-", " "))]
    return _join_numbers([_SPELLINGS.get(w, w) for w in raw if w.strip("'_")])


def normalize(text: str) -> str:
    """Join the compared words with single spaces."""
    return " ".join(words(text))


def normalize_answer(text: str) -> str:
    """Like `normalize`, without articles: "a whale" answers what "whale" does."""
    return " ".join(w for w in words(text) if w not in _ARTICLES)


def says(transcript: str, answer: str) -> bool:
    """Tell whether a transcript holds the answer as whole words, as "it is green" does "green"."""
    wanted = normalize_answer(answer)
    return bool(wanted) and f" {wanted} " in f" {normalize_answer(transcript)} "


def _join_numbers(tokens: list[str]) -> list[str]:
    """Write number words up to ninety-nine as digits; "twenty one" is one number."""
    joined: list[str] = []
    tens_open = False
    for token in tokens:
        value = _NUMBERS.get(token)
        if value is None:
            joined.append(token)
        elif tens_open and 0 < value < 10:
            joined[-1] = str(int(joined[-1]) + value)
        else:
            joined.append(str(value))
        tens_open = value is not None and value >= 20
    return joined
