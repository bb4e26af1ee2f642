"""Multiple choice in writing: the question, its options, and the option that an answer names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_FLAGS = re.IGNORECASE | re.MULTILINE
_INSTRUCTION = re.compile(
    r"^\s*hint:.*$|\banswer with the (?:option|choice)(?:'s|s)? letter[^.?!\n]*[.!]?|"
    r"(?:^|(?<=[.?!)]\s))\s*(?:please\s+)?"
    r"(?:answer|respond|reply|select|choose|pick|provide|give|write)\b[^.?!:\n]*"
    r"\b(?:with\s+the\s+letter|letter\s+(?:of|from|only|directly|for)|(?:corresponding|correct|right)\s+letter|"
    r"options?|choices?|alternatives?)\b(?:[^.?!:\n]|\.(?=[a-z,]))*[.!]?",
    _FLAGS,
)
_LABEL = re.compile(r"^\s*(?:question|q)\s*:\s*", re.IGNORECASE)
_LIST_LABEL = re.compile(
    r"\s*\b(?:the\s+)?(?:answer\s+)?(?:options|choices|alternatives)(?:\s+are)?\s*:\s*", _FLAGS
)
_ANSWER_LABEL = re.compile(r"\s*\b(?:the\s+(?:best\s+)?)?answer(?:\s+is)?\s*:\s*$", re.IGNORECASE)
_MARK = re.compile(
    r"(?:^|(?<=[\s,;?:]))(?:\(([A-Ja-j])\)|([A-J])[.):](?=\s|\w)|([a-j])(?:\)|\.(?=\s)))",
    re.MULTILINE,
)
_NUMBER_MARK = re.compile(r"^\s*\(?(\d)[.):]\)?\s+", re.MULTILINE)
_ITEM = re.compile(r"[,;\n]|\s/\s")
_NAMED = re.compile(
    r"^\W*(?:the\s+)?(?:(?:correct|right|best)\s+)?(?:answer|option|choice)?"
    r"\s*(?:is|:)?\s*(?:option\s+)?(?:\(([A-J\d])\)|([A-J\d])(?:[.):]|\s*$))",
    re.IGNORECASE,
)
_NEEDS = re.compile(
    r"\bwhich\s+(?:one\s+)?of\s+(?:the\s+following|these|those|the\s+(?:options|choices|"
    r"statements|answers|sentences|descriptions))\b|"
    r"\bwhich\s+(?:option|choice|alternative|statement|answer|sentence|description|caption)s?\b|"
    r"\b(?:from|among|between|of|in)\s+(?:the|these|given)\s+(?:given\s+)?"
    r"(?:options|choices|alternatives)\b|"
    r"\b(?:given|following|listed)\s+(?:options|choices|alternatives|statements|answers)\b|"
    r"^\s*(?:please\s+)?(?:choose|select|pick)\b|\bthe\s+following(?!\s+question)\b|"
    r"\b(?:best|correctly|accurately)\s+(?:describes?|matches|completes?|represents?)\b",
    _FLAGS,
)
_REFERS = re.compile(
    r"\b(?:all|none|both|neither|any|either)\s+of\s+(?:the\s+above|these|those|them)\b|"
    r"\b(?:both|neither|either)\s+\(?[a-j]\)?\s+(?:and|nor|or)\s+\(?[a-j]\)?(?!\w)|"
    r"\bnot\s+enough\s+information\b|\bcannot\s+be\s+determined\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """A multiple choice.

    Attributes:
        question: The question without its options; may be empty.
        options: Texts of the options, in order.
        has_numbers: Whether the first option is 1, not A.
    """

    question: str
    options: tuple[str, ...]
    has_numbers: bool = False


def split_options(text: str) -> MultipleChoice | None:
    """Split a question into the question and its options; None if it has fewer than two.

    Options are marked as `A.`, `A)`, `(A)`, `A:` or in small letters, one below the other or in
    one line; by digits one below the other; or are listed after `Options:`.
    """
    text = _INSTRUCTION.sub("", text)
    for mark in (_MARK, _NUMBER_MARK):
        marks = list(_marks_in_order(mark.finditer(text)))
        if len(marks) >= 2:
            ends = [m.start() for m in marks[1:]] + [len(text)]
            texts = [text[m.end() : end] for m, end in zip(marks, ends, strict=True)]
            return _make_multiple_choice(
                text[: marks[0].start()], texts, has_numbers=mark is _NUMBER_MARK
            )
    label = _LIST_LABEL.search(text)
    texts = _ITEM.split(text[label.end() :].strip()) if label else []
    return (
        _make_multiple_choice(text[: label.start()], texts) if label and len(texts) >= 2 else None
    )


def chosen_option_text(answer: str, choice: MultipleChoice) -> str | None:
    """Return the text of the option that an answer names by letter, number or text.

    None if it names none, or one that refers to the others, such as "all of the above".
    """
    index = _named_option_index(answer, choice)
    if index is None or not 0 <= index < len(choice.options):
        return None
    text = choice.options[index]
    return None if not text or _REFERS.search(text) else text


def needs_options(question: str) -> bool:
    """Tell whether a question cannot be answered without its options, or is no question at all."""
    return not re.search(r"\w", question) or _NEEDS.search(question) is not None


def _named_option_index(answer: str, choice: MultipleChoice) -> int | None:
    plain = [_normalize_option(option) for option in choice.options]
    if _normalize_option(answer) in plain:
        return plain.index(_normalize_option(answer))
    named = _NAMED.match(answer.strip())
    mark = next(filter(None, named.groups())).upper() if named else ""
    if not mark or mark.isdigit() is not choice.has_numbers:
        return None
    return int(mark) - 1 if choice.has_numbers else ord(mark) - ord("A")


def _normalize_option(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _marks_in_order(marks: Iterable[re.Match[str]]) -> Iterator[re.Match[str]]:
    """Yield the marks A, B, C, ... or 1, 2, 3, ... in this order, others left out."""
    count = 0
    for mark in marks:
        sign = next(filter(None, mark.groups())).upper()
        if sign in (chr(ord("A") + count), str(count + 1)):
            count += 1
            yield mark


def _make_multiple_choice(
    question: str, texts: list[str], *, has_numbers: bool = False
) -> MultipleChoice:
    question = _LIST_LABEL.sub("", _LABEL.sub("", question)).strip()
    options = (_ANSWER_LABEL.sub("", text).strip().rstrip(",;.").strip() for text in texts)
    return MultipleChoice(question, tuple(options), has_numbers)
