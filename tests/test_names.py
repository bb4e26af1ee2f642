"""Names are the field's: words of this house that it once had do not come back.

A word is one component of a snake_case or CamelCase name. Old names live on in the tables of
aliases, which hold them as strings and so are not identifiers.
"""

import ast
from collections.abc import Iterator

import pytest
import yaml
from identifiers import ROOT, components, files, names_in

from lightning_omni.cli_help import VERBS, verb_options
from lightning_omni.cli_options import ALIASES, OLD_VERBS

PRIVATE = {
    "answerer answerers": "model adapter, Model",
    "arm arms": "variant",
    "ask asks asking asker": "a task has a title and an instruction; verbs say what is done",
    "blanked blanking": "masked",
    "bound bounds": "NELBO",
    "case cases": "example",
    "ceiling ceilings": "upper bound, ground truth",
    "chance": "random baseline",
    "complement complements": "complementary mask",
    "compose composes composer composite": "blend, crossfade",
    "corrupted": "NoisyBatch, x_t",
    "counted": "fixed count",
    "draft drafts drafted": "infill",
    "ear ears heard hear hears hearing listen listener": "speech features, SpeechFeatureEncoder",
    "fill fills filler": "sample, the reverse loop; generate",
    "gap gaps": "blank",
    "grammar grammars": "allowed tokens",
    "grow grows grown": "response length; resize_token_embeddings",
    "hole holes": "masked span, response",
    "judge judges judged": "score, scorer",
    "moment moments": "StepTimes",
    "oracle oracles": "scene classifier",
    "outcome outcomes": "score",
    "place places where": "position, index",
    "quality qualities": "preset",
    "quota quotas": "num_transfer_tokens",
    "reading readings": "prediction",
    "refresh": "cache_interval",
    "reopen reopens reopened": "remask",
    "reply replies": "response",
    "revise revises revised": "edit",
    "shipped": "bundled",
    "shrink shrunk": "export --dtype float16",
    "sure surest sureness": "confidence, most_confident",
    "trace traces traced": "history",
    "visit visits visited": "sample_index",
    "way ways": "config",
    "weightless": "meta init",
}
"""Private words: what the field says."""
PRIVATE_NAMES = {
    "is_shifted": "right_shift_logits",
    "locate": "resolve_pretrained",
    "nats_per_token": "nelbo_per_token",
    "new_rows": "trainable rows",
    "open_places": "masked positions",
}
"""Private names of several words: what the field says."""
_WORDS = {word: instead for words, instead in PRIVATE.items() for word in words.split()}

FILES = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in files()}
ALLOWED = {
    "BFloat16WhereFaster": "`where` is a conjunction; recipes name this class",
    "bound": "the bound of `EntropyBounded` is an entropy, and `signature.bind` has a result",
    "entropy_bound": "an entropy, as in EB-Sampler",
    "upper_bound": "the best value of a metric, no likelihood",
    "upper_bound_rule": "the rule of an upper bound",
    "SHIPPED": "the alias of `bundled`",
    "_place_sprite": "puts sprites on a canvas",
    "_place_sprite_copies": "puts sprites on a canvas",
    "_place_sprite_pair": "puts sprites on a canvas",
}
"""Names with a private word in another sense, and the reason."""
OLD_CHOICES = {"bound", "counted", "own"}
"""Values that recipes may give under an old name."""


def private_word(name: str) -> str | None:
    """The private word in a name, with what the field says; None if there is none."""
    bare = name.strip("_")
    if name in ALLOWED:
        return None
    if bare in PRIVATE_NAMES:
        return f"{name}: say {PRIVATE_NAMES[bare]}"
    found = next((word for word in components(name) if word in _WORDS), None)
    return found and f"{name}: for '{found}' say {_WORDS[found]}"


def recipe_keys(plain: object) -> Iterator[str]:
    """The keys of a recipe; names of variants and of configs are the author's own."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from str(key).split(".")
            values = value if key in ("variants", "configs") and isinstance(value, dict) else None
            yield from recipe_keys(list(values.values()) if values is not None else value)
    elif isinstance(plain, list):
        for value in plain:
            yield from recipe_keys(value)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_identifier_is_a_private_word(path):
    names = dict(names_in(FILES[path]))
    names |= dict.fromkeys((path.stem, *path.parent.parts), 0)
    found = [
        f"{path}:{line} {word}" for name, line in names.items() if (word := private_word(name))
    ]
    assert found == []


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_or_verb_is_a_private_word(verb):
    names = [verb, *(option.name for option in verb_options(verb))]
    words = [part for name in names for part in name.replace("-", "_").split(".")]
    assert [word for name in words if (word := private_word(name))] == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_no_key_of_a_recipe_is_a_private_word(path):
    keys = recipe_keys(yaml.safe_load(path.read_text()))
    assert [word for name in keys if (word := private_word(name))] == []


def test_no_choice_is_a_private_word_but_the_old_ones_that_are_still_read():
    choices = {
        str(node.value)
        for tree in FILES.values()
        for literal in ast.walk(tree)
        if isinstance(literal, ast.Subscript) and ast.unparse(literal.value) == "Literal"
        for node in ast.walk(literal.slice)
        if isinstance(node, ast.Constant)
    }
    private = {name for name in choices if private_word(name) or name in OLD_CHOICES}
    assert private == OLD_CHOICES


def test_every_alias_leads_to_a_name_of_the_field():
    new = [*ALIASES.values(), *(word for words, _ in OLD_VERBS.values() for word in words)]
    assert [word for name in new if (word := private_word(name.strip("-")))] == []


def test_every_exception_is_needed():
    names = {name for tree in FILES.values() for name, _ in names_in(tree)}
    assert set(ALLOWED) <= names
    for name in ALLOWED:
        assert any(word in _WORDS for word in components(name)), name


@pytest.mark.parametrize(
    "source",
    [
        "def fill_part(): ...",
        "class HoleFiller: ...",
        "def generate(quality='fast'): ...",
        "def generate(*, ears): ...",
        "def generate(*traces, **ways): ...",
        "surest = 1",
        "self.reopens = True",
        "for place in x: ...",
        "with x as draft: ...",
        "def f() -> None:\n    (a, judged), *holes = x",
        "from x import score as judge",
        "[case for case in x]",
        "nats_per_token: float = 0",
        "if (chance := 1): ...",
        "lambda oracle: 1",
        "try: ...\nexcept E as reply: ...",
        "match x:\n    case [*quotas]: ...",
    ],
)
def test_a_private_word_is_found_wherever_a_name_is_bound(source):
    assert [name for name, _ in names_in(ast.parse(source)) if private_word(name)]
