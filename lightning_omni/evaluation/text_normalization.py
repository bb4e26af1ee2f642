"""Normalization of text before it is compared: words, numbers, spelling, articles and plurals."""

from __future__ import annotations

import re

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_SPELLINGS = {"colour": "color", "colours": "colors", "grey": "gray", "aluminium": "aluminum"}
_ARTICLES = frozenset(("a", "an", "the"))
_WORD = re.compile(r"[\w']+")


def split_words(text: str) -> list[str]:
    """Split into lower-case words: split at hyphens, numbers as digits, American spelling."""
    raw = [w.strip("'_") for w in _WORD.findall(text.lower().replace("-", " "))]
    return _write_numbers_as_digits([_SPELLINGS.get(w, w) for w in raw if w.strip("'_")])


def normalize_text(text: str) -> str:
    """Return the words of `split_words` joined by single spaces."""
    return " ".join(split_words(text))


def normalize_answer(text: str) -> str:
    """Like `normalize_text`, without articles: "a whale" equals "whale"."""
    return " ".join(w for w in split_words(text) if w not in _ARTICLES)


def contains_answer(transcript: str, answer: str) -> bool:
    """Tell whether a transcript contains the answer as whole words: "it is green", "green"."""
    wanted = normalize_answer(answer)
    return bool(wanted) and f" {wanted} " in f" {normalize_answer(transcript)} "


def stem_noun(noun: str) -> str:
    """Return one stem for singular and plural: "fox" of "foxes", "cooky" of "cookies", "cookie".

    Both sides of a comparison are stemmed, so that an odd stem does no harm.
    """
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        noun = noun.removesuffix("s")
    if noun.endswith("ie"):
        return noun.removesuffix("ie") + "y"
    return noun.removesuffix("e")


def _write_numbers_as_digits(words: list[str]) -> list[str]:
    """Write number words up to ninety-nine as digits; "twenty one" is one number."""
    joined: list[str] = []
    is_after_tens = False
    for word in words:
        value = _NUMBERS.get(word)
        if value is None:
            joined.append(word)
        elif is_after_tens and 0 < value < 10:
            joined[-1] = str(int(joined[-1]) + value)
        else:
            joined.append(str(value))
        is_after_tens = value is not None and value >= 20
    return joined
