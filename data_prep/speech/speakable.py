"""Which written questions, answers and captions can be spoken, one small rule each.

The paper (Omni-Diffusion, arXiv:2603.06577v1, section 3.3) makes spoken visual data from written
ones: maths and programming are dropped, multiple choice is opened, answers of more than 100 words
are dropped. What it does not name, such as links and tables, is a rule of ours. The rules are for
English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data_prep.speech.multiple_choice import chosen_option_text, needs_options, split_options

MAX_ANSWER_WORDS = 100
"""Longest spoken answer in words. Source: arXiv:2603.06577v1, section 3.3."""

RULES = {
    "layout": "the sample holds other parts than its task, or more than one question",
    "empty": "nothing is left to be said",
    "maths": "LaTeX, formulas, equations or questions of mathematics",
    "code": "programs, markup or questions about them",
    "link": "web and e-mail addresses, names of files",
    "table": "rows of cells",
    "coordinates": "points and boxes in numbers",
    "needs the options": "a multiple choice that cannot be answered without its options",
    "unclear choice": "a multiple choice whose answer is none of its options",
    "long answer": "an answer of more words than the limit",
    "script": "letters that are not Latin",
    "symbols": "characters without a spoken form",
    "not synthesized": "the synthesizer failed",
    "long speech": "a recording of more than 60 seconds",
    "repeated": "the same question, voice, answer and picture as another sample, once it is opened",
}
"""Every reason to leave a sample out, in the order in which the rules are applied."""

_FLAGS = re.IGNORECASE | re.MULTILINE
_MATHS = re.compile(
    r"\$(?!\s)[^$\n]*[\\^_={}][^$\n]*(?<!\s)\$|\$[a-z]\$|\$\$|\\[(\[]|\\[a-z]{2,}|"  # LaTeX
    r"[∀-⋿×÷√∞πθΣΔ±²³⁰-₉]|"
    r"\w\^[\w{(]|"  # powers
    r"[\w)]\s*=\s*[\w(+-]|"  # equations
    r"\d\s*[<>]\s*[\w(]|\b[a-z]\s*[<>]\s*[\w(]|"  # comparisons
    r"\d\s+[+*]\s+\d|\d[+*]\d|\b(?:what is|calculate|compute)\s+\d+\s*[-+*/]\s*\d|"  # sums
    r"\b(?:equations?|solve for|derivatives?|integrals?|polynomials?|quadratic|logarithms?|"
    r"hypotenuse|perimeter|circumference|cosine|theorem|denominator|numerator)\b|"
    r"\b(?:value|length|area|measure) of (?-i:[b-zB-HJ-Z]|[A-Z]{2,3})\b|"
    r"\b(?:triangle|angle|segment|parallelogram) (?-i:[A-Z]{1,4})\b",
    _FLAGS,
)
_CODE = re.compile(
    r"```|`(?!\s)[^`\n]*(?<!\s)`|"
    r"</?[a-z][\w-]*(?:\s[^<>]*)?/?>|"  # markup
    r"\b\w+\([^()\n]*\)\s*[;{]|\w\(\)|\b[a-z]+\.[a-z]+\(|\b[a-z]+_[a-z]\w*|[{}]\s*$|"
    r"^\s*(?:def|class)\s+\w+.*:\s*$|^\s*import\s+[\w.]+\s*$|^\s*from\s+[\w.]+\s+import\b|"
    r"\b(?:public|private|static)\s+(?:static|void|int|final|string)\b|#include\b|"
    r"\s--[a-z]{1,12}\b|"  # options of a command
    r"\b(?:javascript|html|pseudo-?code|regular expressions?|source code|code snippets?|"
    r"lines? of code|programming languages?|sql quer(?:y|ies)|compilers?)\b|"
    r"\b(?:python|java|matlab|c\+\+|bash|shell|(?:output|result) of (?:this|the)) "
    r"(?:code|scripts?|programs?|functions?)\b|\b(?:this|following) (?:code|script)\b",
    _FLAGS,
)
_LINK = re.compile(
    r"https?:|\bwww\.|\S@\w+\.\w|\b[\w-]+\.(?:com|org|net|edu|gov|io|html?|php|pdf|jpe?g|png)\b",
    _FLAGS,
)
_TABLE = re.compile(r"^.*\|.*\|.*$|\S\t\S|^\s*[-+]{3,}[-+ ]*$", _FLAGS)
_COORDINATES = re.compile(
    r"[\[(<{]\s*(?:0?\.\d+|1\.0+)\s*(?:[,;\s]\s*(?:0?\.\d+|1\.0+)\s*)+[\])>}]|"
    r"[\[(<{]\s*\d+(?:\.\d+)?(?:\s*[,;]\s*\d+(?:\.\d+)?){3,}\s*[\])>}]"
)
_MARKDOWN: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^\s{0,3}(?:#{1,6}|[-*•]|>|\d{1,2}[.)])\s+", re.MULTILINE), ""),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])"), r"\1"),
)
_QUOTES = str.maketrans(
    {"‘": "'", "’": "'", "`": "'", "“": '"', "”": '"', "…": "...", "\u00a0": " "}
)
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
_AMOUNT = re.compile(r"([$€£¥])\s?(\d+(?:[,.]\d+)*)((?:\s(?:thousand|million|billion))?)")
_SPOKEN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"\s*%", " percent"),
        (r"\s*°\s?C\b", " degrees Celsius"),
        (r"\s*°\s?F\b", " degrees Fahrenheit"),
        (r"\s*°", " degrees"),
        (r"\s*&\s*", " and "),
        (r"\s*@\s*", " at "),
        (r"#(?=\d)", "number "),
        (r"(?<=\w)\s*\+(?!\w)", " plus"),
        (r"(?<=\w)\s*\+\s*(?=\w)", " plus "),
        (r"\b(\d+)/(\d+)/(\d+)\b", r"\1 \2 \3"),
        (r"(?<=\d)\s?/\s?(?=\d)", " over "),
        (r"(?<=\w)\s?/\s?(?=\w)", " or "),
        (r"(?<=\d)\s?–\s?(?=\d)", " to "),
        (r"\s*[–—]\s*", ", "),
        (r"\be\.g\.,?", "for example"),
        (r"\bi\.e\.,?", "that is"),
        (r"\bvs\.?(?=\s)", "versus"),
    )
)
_PUNCTUATION = frozenset(".,;:!?'\"()-")


@dataclass(frozen=True, slots=True)
class SpokenText:
    """A text and the words that say it.

    Attributes:
        written: The text, without Markdown.
        said: The same with words for symbols, in one line.
    """

    written: str
    said: str


@dataclass(frozen=True, slots=True)
class SpokenPair:
    """A question and its answer, both of which can be spoken."""

    question: SpokenText
    answer: SpokenText


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The rule, a key of `RULES`, by which a sample is left out."""

    rule: str


def to_spoken_pair(
    question: str, answer: str, *, max_answer_words: int = MAX_ANSWER_WORDS
) -> SpokenPair | LeftOut:
    """Return a question and its answer as they are spoken, or the rule against it.

    Source: arXiv:2603.06577v1, section 3.3, spoken visual question answering.
    """
    for content in (question, answer):
        if rule := _first_broken_rule(content, _WRITTEN):
            return LeftOut(rule)
    opened = to_open_question(question, answer)
    if isinstance(opened, LeftOut):
        return opened
    question, answer = opened
    if is_long_answer(answer, max_answer_words):
        return LeftOut("long answer")
    asked, answered = to_spoken_text(question), to_spoken_text(answer)
    for said in (asked.said, answered.said):
        if rule := _first_broken_rule(said, _SAID):
            return LeftOut(rule)
    return SpokenPair(asked, answered)


def to_spoken_caption(caption: str) -> SpokenText | LeftOut:
    """Return a caption as it is spoken, or the rule against it.

    Source: arXiv:2603.06577v1, section 3.3, speech to image; it names no rule for captions, so only
    what cannot be spoken is left out.
    """
    if rule := _first_broken_rule(caption, _WRITTEN):
        return LeftOut(rule)
    text = to_spoken_text(caption)
    rule = _first_broken_rule(text.said, _SAID)
    return LeftOut(rule) if rule else text


def has_maths(text: str) -> bool:
    """Tell whether a text holds formulas or is about mathematics; prices and plain numbers do not.

    Source: arXiv:2603.06577v1, section 3.3, mathematics is dropped.
    """
    return _MATHS.search(text) is not None


def has_code(text: str) -> bool:
    """Tell whether a text holds code or markup, or is about a program.

    Source: arXiv:2603.06577v1, section 3.3, programming is dropped.
    """
    return _CODE.search(text) is not None


def has_link(text: str) -> bool:
    """Tell whether a text holds an address of the web, of e-mail or the name of a file.

    Source: a rule of ours; nobody says an address in a conversation about a picture.
    """
    return _LINK.search(text) is not None


def has_table(text: str) -> bool:
    """Tell whether a text holds rows of cells, divided by bars or tabs.

    Source: a rule of ours; a table has no spoken form.
    """
    return _TABLE.search(text) is not None


def has_coordinates(text: str) -> bool:
    """Tell whether a text holds a point or a box in numbers, as answers about regions do.

    Source: a rule of ours; LLaVA-OneVision (arXiv:2408.03326) mixes such data in.
    """
    return _COORDINATES.search(text) is not None


def is_long_answer(answer: str, max_words: int) -> bool:
    """Tell whether an answer has more words than a limit.

    Source: arXiv:2603.06577v1, section 3.3, answers of more than 100 words are dropped.
    """
    return len(answer.split()) > max_words


def has_other_script(text: str) -> bool:
    """Tell whether a text has letters that are not Latin.

    Source: a rule of ours; the voices are English.
    """
    return any(c.isalpha() and "LATIN" not in unicodedata.name(c, "") for c in text)


def has_symbols(text: str) -> bool:
    """Tell whether a text has characters that are no letters, digits or marks of punctuation.

    Source: a rule of ours; synthesizers skip such characters or spell them.
    """
    return any(
        not (c.isalnum() or c.isspace() or c in _PUNCTUATION) for c in _normalize_accents(text)
    )


def has_no_letters_or_digits(text: str) -> bool:
    """Tell whether a text has no letter and no digit.

    Source: a rule of ours; there is nothing to say.
    """
    return not any(c.isalnum() for c in text)


def to_open_question(question: str, answer: str) -> tuple[str, str] | LeftOut:
    """Turn a multiple choice into a question without options and the text of the right option.

    A question without options is returned unchanged, unless it refers to some.

    Source: arXiv:2603.06577v1, section 3.3, multiple choice is rewritten as open questions.
    """
    choice = split_options(question)
    if needs_options(choice.question if choice else question):
        return LeftOut("needs the options")
    if choice is None:
        return question, answer
    text = chosen_option_text(answer, choice)
    return LeftOut("unclear choice") if text is None else (choice.question, text)


def to_spoken_text(text: str) -> SpokenText:
    """Return a text without Markdown, and the words that say it."""
    written = remove_markdown(text)
    return SpokenText(written, replace_symbols_by_words(written))


def remove_markdown(text: str) -> str:
    """Remove emphasis, headings and list marks; lines stay."""
    text = text.translate(_QUOTES)
    for pattern, kept in _MARKDOWN:
        text = pattern.sub(kept, text)
    return "\n".join(line for line in map(str.strip, text.splitlines()) if line)


def replace_symbols_by_words(text: str) -> str:
    """Replace symbols and abbreviations by words, and join the lines to one.

    Numbers stay digits, which synthesizers read as words.
    """
    text = _AMOUNT.sub(_amount_in_words, text)
    for pattern, words in _SPOKEN:
        text = pattern.sub(words, text)
    return " ".join(" ".join(_punctuated_lines(text)).split())


def _punctuated_lines(text: str) -> Iterator[str]:
    """Yield lines, each but the last with punctuation at its end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines[:-1]:
        yield line if line[-1] in ".,;:!?" else f"{line}."
    yield from lines[-1:]


def _amount_in_words(match: re.Match[str]) -> str:
    currency, number, scale = match.groups()
    one = number == "1" and not scale
    return f"{number}{scale} {_CURRENCIES[currency]}{'' if one or currency == '¥' else 's'}"


def _normalize_accents(text: str) -> str:
    """Return letters and their accents as one character each."""
    return unicodedata.normalize("NFC", text)


_WRITTEN: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("empty", has_no_letters_or_digits),
    ("maths", has_maths),
    ("code", has_code),
    ("link", has_link),
    ("table", has_table),
    ("coordinates", has_coordinates),
)
"""Rules for a text as it is written."""
_SAID: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("empty", has_no_letters_or_digits),
    ("script", has_other_script),
    ("symbols", has_symbols),
)
"""Rules for a text as it is said."""


def _first_broken_rule(
    text: str, rules: tuple[tuple[str, Callable[[str], bool]], ...]
) -> str | None:
    return next((name for name, applies in rules if applies(text)), None)
