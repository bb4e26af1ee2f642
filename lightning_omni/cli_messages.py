"""Mistakes in options in one line: a parser's report without its jargon, and a suggestion."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from lightning_omni.errors import did_you_mean

_JARGON = (
    (
        r"(\S+): Expected an instantiatable class, but \S+ is abstract Given value: "
        r"NestedArg\(key='([^']*)', val=.*\)",
        r"\1.\2 is given without \1, of which it is an option; put --\1 CLASS before it",
    ),
    (r"Does not validate against any of the Union subtypes Errors: ", ""),
    (r"Problem with given class_path '[^']*': ", ""),
    (r"- Expected a <class 'NoneType'>\.?( Got value: \S+)?", ""),
    (r"<class '([\w.]+)'>", r"\1"),
    (r"Expected a typing\.Literal\[(.*?)\]\.", r"wanted one of \1."),
    (r"Expected a dot import path string: \S+", "wanted a class by its name or dotted path."),
    (r"Parser key \"([^\"]*)\": (- )?", r"\1: "),
    (r" +", " "),
    (r"(Option '[^']*' is not accepted) Given value: NestedArg\(key='[^']*', val=.*\)", r"\1"),
)
MAX_MESSAGE = 700
_MAX_ECHO = 100
_UNKNOWN = re.compile(r"[Uu]nrecognized arguments: --?([\w.]+)|Option '([\w.]+)' is not accepted")


def add_suggestion(message: str, known: Collection[str]) -> str:
    """Return a parser's message, with the option nearest to one that it calls unknown."""
    found = _UNKNOWN.search(message)
    if found is None:
        return message
    return message.rstrip(" .") + did_you_mean(found[1] or found[2], known)


def fold_message(message: str, most: int = MAX_MESSAGE) -> str:
    """Fold a parser's report into one line, without the echo of the whole value."""
    return _shorten_message(" ".join(_drop_echoes(message.splitlines())), most)


def _drop_echoes(lines: Sequence[str]) -> Iterator[str]:
    for line in (line.strip() for line in lines):
        is_echo = line.startswith("Given value") and len(line) > _MAX_ECHO
        if line and not is_echo and not line.startswith(("Subtypes:", "Given value type:")):
            yield line


def _shorten_message(text: str, most: int) -> str:
    for pattern, plain in _JARGON:
        text = re.sub(pattern, plain, text)
    return text if len(text) <= most else text[: most - 3] + "..."
