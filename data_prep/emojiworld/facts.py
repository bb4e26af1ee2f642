"""Questions with short answers about numbers, things and countries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.emojiworld.lexicon import number_in_words


@dataclass(frozen=True, slots=True)
class Fact:
    """A question with its answer.

    Attributes:
        question: Question in lower case, without a question mark.
        answer: Bare answer.
        sentence: Answer as a sentence, for speech.
        topic: Group in evaluation.
        can_be_spoken: Whether the fact may be asked and answered by speech.
    """

    question: str
    answer: str
    sentence: str
    topic: str
    can_be_spoken: bool = True


def sums_from_one(largest: int) -> list[Fact]:
    """Return every sum of two numbers from 1 to `largest`, in words.

    The answer sentence gives a speech recognizer context: `the answer is four` becomes "for".
    """
    numbers = range(1, largest + 1)
    sums = [_sum_fact(a, b) for a in numbers for b in numbers]
    return [replace(fact, sentence=f"there are {fact.answer} altogether") for fact in sums]


def sums_from_zero(largest: int) -> list[Fact]:
    """Return every sum of two numbers from 0 to `largest`, in words."""
    numbers = range(largest + 1)
    return [_sum_fact(a, b) for a in numbers for b in numbers]


def everyday_facts() -> list[Fact]:
    """Return colours of things, kinds of things and a few capitals."""
    colors = {
        "grass": "green",
        "the sky": "blue",
        "snow": "white",
        "coal": "black",
        "blood": "red",
        "the sea": "blue",
    }
    kinds = {
        "a dog": "an animal",
        "a rose": "a flower",
        "a hammer": "a tool",
        "a guitar": "an instrument",
        "a banana": "a fruit",
    }
    capitals = {
        "france": "paris",
        "italy": "rome",
        "spain": "madrid",
        "japan": "tokyo",
        "egypt": "cairo",
        "england": "london",
    }
    facts = [_make_fact(f"what color is {k}", v, "color") for k, v in colors.items()]
    facts += [
        Fact(f"what kind of thing is {k}", v.split()[1], f"it is {v}", "kind")
        for k, v in kinds.items()
    ]
    facts += [_make_fact(f"what is the capital of {k}", v, "capital") for k, v in capitals.items()]
    return facts


_SUM = re.compile(r"what is (\w+ plus \w+)")


def rephrase_sum(question: str) -> list[str]:
    """Return other wordings of a sum; empty for any other question."""
    found = _SUM.fullmatch(question)
    words = ("how much is", "tell me", "what do you get for")
    return [f"{start} {found[1]}" for start in words] if found else []


CAPITALS = {
    "argentina": "buenos aires", "australia": "canberra", "austria": "vienna",
    "bangladesh": "dhaka", "belgium": "brussels", "bulgaria": "sofia", "canada": "ottawa",
    "chile": "santiago", "china": "beijing", "colombia": "bogota", "croatia": "zagreb",
    "cuba": "havana", "denmark": "copenhagen", "egypt": "cairo", "ethiopia": "addis ababa",
    "finland": "helsinki", "france": "paris", "germany": "berlin", "ghana": "accra",
    "greece": "athens", "hungary": "budapest", "iceland": "reykjavik", "india": "new delhi",
    "iraq": "baghdad", "ireland": "dublin", "italy": "rome", "jamaica": "kingston",
    "japan": "tokyo", "kenya": "nairobi", "latvia": "riga", "lebanon": "beirut",
    "mongolia": "ulaanbaatar", "morocco": "rabat", "nepal": "kathmandu", "norway": "oslo",
    "pakistan": "islamabad", "peru": "lima", "poland": "warsaw", "portugal": "lisbon",
    "romania": "bucharest", "russia": "moscow", "senegal": "dakar", "serbia": "belgrade",
    "spain": "madrid", "sweden": "stockholm", "thailand": "bangkok", "tunisia": "tunis",
    "turkey": "ankara", "ukraine": "kyiv", "uruguay": "montevideo", "vietnam": "hanoi",
    "zambia": "lusaka",
}  # fmt: skip


def capital_facts() -> list[Fact]:
    """Return questions for the capital of a country and for the country of a capital."""
    facts = [_make_fact(f"what is the capital of {k}", v, "capital") for k, v in CAPITALS.items()]
    facts += [
        _make_fact(f"which country has the capital {v}", k, "country of capital")
        for k, v in CAPITALS.items()
    ]
    return facts


def country_facts(folder: Path) -> list[Fact]:
    """Return capitals, continents, languages, currencies and borders from `countries.json`.

    Only names of plain letters are kept, so that a speech synthesizer can say them.
    """
    table: list[dict[str, Any]] = json.loads((folder / "countries.json").read_text("utf-8"))
    facts: dict[str, Fact] = {}
    for country in table:
        name = country["name"]["common"].lower()
        if _is_plain_name(name):
            for fact in _facts_about_country(name, country):
                if _is_plain_name(fact.answer):
                    facts.setdefault(fact.question, fact)
    return list(facts.values())


def definition_facts(words: Iterable[str], wordnet: Path) -> list[Fact]:
    """Return the definition of each noun, the first WordNet sense; long ones are excluded."""
    index = _read_first_senses(wordnet / "index.noun")
    glosses = _read_glosses(wordnet / "data.noun")
    facts: list[Fact] = []
    for word in sorted(set(words)):
        gloss = glosses.get(index.get(word, ""), "")
        if 2 <= len(gloss.split()) <= 9 and re.fullmatch(r"[a-z' -]+", gloss):
            article = "an" if word[0] in "aeiou" else "a"
            question = f"what is the meaning of {article} {word}"
            facts.append(Fact(question, gloss, gloss, "definition", can_be_spoken=False))
    return facts


def _sum_fact(a: int, b: int) -> Fact:
    question = f"what is {number_in_words(a)} plus {number_in_words(b)}"
    return _make_fact(question, number_in_words(a + b), "sum")


def _make_fact(question: str, answer: str, topic: str) -> Fact:
    return Fact(question, answer, f"it is {answer}", topic)


def _is_plain_name(name: str) -> bool:
    return re.fullmatch(r"[a-z][a-z' -]*", name) is not None


def _facts_about_country(name: str, country: dict[str, Any]) -> Iterable[Fact]:
    capitals = [str(c).lower() for c in country.get("capital") or [] if c]
    if len(capitals) == 1:
        yield _make_fact(f"what is the capital of {name}", capitals[0], "capital")
        question = f"which country has the capital {capitals[0]}"
        yield _make_fact(question, name, "country of capital")
    yield Fact(
        f"on which continent is {name}",
        str(country["region"]).lower(),
        f"it is in {str(country['region']).lower()}",
        "continent",
    )
    languages = sorted(str(v).lower() for v in (country.get("languages") or {}).values())
    if len(languages) == 1:
        question = f"which language do people speak in {name}"
        yield Fact(question, languages[0], f"they speak {languages[0]}", "language")
    currencies = list((country.get("currencies") or {}).values())
    if len(currencies) == 1:
        currency = str(currencies[0]["name"]).lower()
        question = f"what is the currency of {name}"
        yield Fact(question, currency, f"it is the {currency}", "currency")
    coast = "no" if country.get("landlocked") else "yes"
    sentence = f"{coast} it {'has no' if coast == 'no' else 'has a'} coast"
    yield Fact(f"does {name} have a coast", coast, sentence, "coast")
    borders = len(country.get("borders") or [])
    yield Fact(
        f"how many countries border {name}",
        number_in_words(borders),
        f"it has {number_in_words(borders)} neighbors",
        "borders",
    )


def _read_first_senses(path: Path) -> dict[str, str]:
    """Return the offset of the most frequent sense by lemma."""
    senses: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("  "):
            continue
        fields = line.split()
        pointers = int(fields[3])
        senses[fields[0].replace("_", " ")] = fields[6 + pointers]
    return senses


def _read_glosses(path: Path) -> dict[str, str]:
    """Return the definition without examples by offset."""
    found: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("  "):
            gloss = line.partition(" | ")[2].split(";")[0].strip().lower()
            found[line[:8]] = re.sub(r"\([^)]*\)\s*", "", gloss).strip()
    return found
