"""Docstrings, pages and help are in plain English of the field.

Notes are noun phrases that stand alone ("seeds: one seed per sample"), never a headless "Of each
sample"; and nothing but people asks, hears or answers for a token.
"""

import ast
import re

import pytest
from identifiers import ROOT, files

from lightning_omni.cli_help import VERBS, verb_help

PAGES = [
    path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if "results" not in path.parts and path.name != "log.md"
]
HEADLESS = re.compile(
    r"^(?:[-*\d.]+ |\|.*\| )?(?:`?[\w.\[\]]+`?(?: \([^)]*\))?: )?Of (?!.*, (?:one|the) )[a-z]"
)
"""A paragraph, list item, table cell or note of a parameter that begins with "Of ..." and has no
subject; "Of several parts, the last" has one."""
PERSONS = re.compile(
    r"\b(?:tokens?|positions?|masks?|prompts?|holes?|codes?|folders?|networks?|models?|backbones?)"
    r" (?:that |which |may |can |only |also |all )*"
    r"(?:asks?|asked|hears?|heard|listens?|listened)\b(?! for| to)",
    re.I,
)
"""Things that ask or hear."""


def docstrings(tree):
    """Docstrings of a file, those below an assignment too, each with its line."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text)), lineno=line):
                    yield line, text


def faults(text):
    """Notes of a text that begin with a headless "Of", and things in it that ask or hear."""
    found, before = [], "."
    for line in (line.strip() for line in text.splitlines()):
        if HEADLESS.match(line) and (not before or before[-1] in ".:;|"):
            found.append(line)
        before = line
    return found + PERSONS.findall(" ".join(text.split()))


@pytest.mark.parametrize("path", list(files()), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_plain(path):
    tree = ast.parse(path.read_text())
    assert [(line, fault) for line, text in docstrings(tree) for fault in faults(text)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_plain(path):
    assert faults(path.read_text()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_plain(verb):
    assert faults(verb_help(verb)) == []


@pytest.mark.parametrize(
    "text",
    [
        "Of each sample.",
        "Args:\n    seeds: Of each sample.",
        "Args:\n    is_on (bool): Of each sample.",
        "A sentence.\n\nOf each sample.",
        "- Of each sample",
        "| seeds | Of each sample |",
        "Only those tokens ask, all answer.",
        "what a model\nthat also hears speech reads",
    ],
)
def test_a_fault_is_found(text):
    assert faults(text)


def test_a_line_that_continues_a_sentence_is_none():
    assert faults("the last\nOf its kind, which people ask for") == []


def test_a_sentence_with_a_subject_is_none():
    assert faults("Of several parts, the last counts.") == []
