"""The facts that a scene caption states by its grammar.

Captions are "a green whale on a pink background", "three foxes on a blue background" or
"a cat to the left of a dog". Generated and reference captions are parsed by the same grammar, so
no list of objects is needed; only the names of inks are given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lightning_omni.evaluation.text_normalization import normalize_text, stem_noun

_PAIR = re.compile(r"^(.+?) (?:to the |is )*(left of|right of|above|below) (.+)$")
_BACKGROUND = re.compile(r"^(.+?) on (?:a |an |the )?(\w+) background$")
_NOUN = re.compile(r"^(?:(a|an|the|\d+) )?(.+)$")
_OPPOSITE = {"right of": "left of", "below": "above"}


@dataclass(frozen=True, slots=True)
class Scene:
    """Facts of a scene; None stands for what is not stated.

    Attributes:
        objects: Names of the objects, as stems if parsed from a caption; the left or upper one of
            a pair first.
        ink: Colour of a silhouette.
        background: Colour of the background.
        count: Number of objects of the one kind; 1 for a pair.
        relation: "left of" or "above"; "b right of a" is stored as "a left of b".
    """

    objects: tuple[str, ...]
    ink: str | None = None
    background: str | None = None
    count: int = 1
    relation: str | None = None


NO_SCENE = Scene((), count=0)
"""Stands for a missing prediction: wrong in every attribute that a reference states."""


def canonical_pair(first: str, relation: str, second: str) -> tuple[tuple[str, str], str]:
    """Order a pair so that the relation is "left of" or "above"."""
    if relation in _OPPOSITE:
        return (second, first), _OPPOSITE[relation]
    return (first, second), relation


def parse_caption(caption: str, *, inks: Iterable[str]) -> Scene | None:
    """Parse a caption; return None if it does not follow the grammar."""
    text = normalize_text(caption)
    background = None
    if found := _BACKGROUND.match(text):
        text, background = found[1], found[2]
    if found := _PAIR.match(text):
        one, two = _parse_noun(found[1], inks), _parse_noun(found[3], inks)
        objects, relation = canonical_pair(one.objects[0], found[2], two.objects[0])
        return Scene(objects, one.ink, background, 1, relation)
    if not text or "background" in text.split():
        return None
    noun = _parse_noun(text, inks)
    return Scene(noun.objects, noun.ink, background, noun.count)


def caption_matches(stated: Scene | None, reference: Scene) -> dict[str, bool]:
    """Return whether a caption is right about each attribute that the reference states.

    `attributes` says whether all are right and no ink is invented.
    """
    found = stated or NO_SCENE
    matches = {"object": found.objects == reference.objects}
    for name in ("ink", "background", "relation"):
        if (value := getattr(reference, name)) is not None:
            matches[name] = getattr(found, name) == value
    if reference.relation is None:
        matches["count"] = found.count == reference.count
    invents_ink = found.ink is not None and reference.ink is None
    matches["attributes"] = all(matches.values()) and not invents_ink
    return matches


def _parse_noun(text: str, inks: Iterable[str]) -> Scene:
    found = _NOUN.match(text)
    number, noun = (found[1], found[2]) if found else (None, text)
    head, _, rest = noun.partition(" ")
    ink = head if rest and head in set(inks) else None
    count = int(number) if number and number.isdigit() else 1
    return Scene((stem_noun(rest if ink else noun),), ink, None, count)
