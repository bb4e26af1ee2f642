"""What a scene caption states, read from its grammar.

Captions are "a green whale on a pink background", "three foxes on a blue background" or
"a cat to the left of a dog". Both the model's caption and the reference are read by the same
grammar, so no list of objects is needed; only inks come from outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lightning_omni.evaluation.normalize import normalize

_RELATIONS = ("left of", "right of", "above", "below")
_PAIR = re.compile(r"^(.+?) (?:to the |is )*(left of|right of|above|below) (.+)$")
_BACKGROUND = re.compile(r"^(.+?) on (?:a |an |the )?(\w+) background$")
_NOUN = re.compile(r"^(?:(a|an|the|\d+) )?(.+)$")
_OPPOSITE = {"right of": "left of", "below": "above"}


@dataclass(frozen=True, slots=True)
class Scene:
    """The facts of a caption or of scene metadata; `None` is what it leaves unsaid.

    Relations are canonical: "b right of a" is stored as "a left of b".
    """

    objects: tuple[str, ...]
    ink: str | None = None
    background: str | None = None
    count: int = 1
    relation: str | None = None


def canonical(first: str, relation: str, second: str) -> tuple[tuple[str, str], str]:
    """Order a pair so that the relation is "left of" or "above"."""
    if relation in _OPPOSITE:
        return (second, first), _OPPOSITE[relation]
    return (first, second), relation


def parse_caption(caption: str, *, inks: Iterable[str]) -> Scene | None:
    """Read a caption, or return `None` if it does not follow the grammar."""
    text = normalize(caption)
    background = None
    if found := _BACKGROUND.match(text):
        text, background = found[1], found[2]
    if found := _PAIR.match(text):
        one, two = _noun(found[1], inks), _noun(found[3], inks)
        objects, relation = canonical(one.objects[0], found[2], two.objects[0])
        return Scene(objects, one.ink, background, 1, relation)
    if not text or "background" in text.split():
        return None
    noun = _noun(text, inks)
    return Scene(noun.objects, noun.ink, background, noun.count)


def compare(stated: Scene | None, wanted: Scene) -> dict[str, bool]:
    """Judge each attribute that the wanted caption names, and `attributes`: all of them."""
    verdict = {"object": stated is not None and stated.objects == wanted.objects}
    named = {"ink": wanted.ink, "background": wanted.background, "relation": wanted.relation}
    for name, value in named.items():
        if value is not None:
            verdict[name] = stated is not None and getattr(stated, name) == value
    if wanted.relation is None:
        verdict["count"] = stated is not None and stated.count == wanted.count
    clean = stated is not None and not (wanted.ink is None and stated.ink is not None)
    verdict["attributes"] = clean and all(verdict.values())
    return verdict


def _noun(text: str, inks: Iterable[str]) -> Scene:
    found = _NOUN.match(text)
    number, noun = (found[1], found[2]) if found else (None, text)
    head, _, rest = noun.partition(" ")
    ink = head if rest and head in set(inks) else None
    count = int(number) if number and number.isdigit() else 1
    return Scene((stem(rest if ink else noun),), ink, None, count)


def stem(noun: str) -> str:
    """Make singular and plural alike: "foxes" and "fox" are "fox", "cookies" and "cookie" "cooky".

    Applied to both sides of a comparison, so an odd stem decides nothing.
    """
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        noun = noun.removesuffix("s")
    if noun.endswith("ie"):
        return noun.removesuffix("ie") + "y"
    return noun.removesuffix("e")
