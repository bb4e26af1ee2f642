import pytest

from lightning_omni.evaluation.emojiworld.captions import Scene, caption_matches, parse_caption
from lightning_omni.evaluation.text_normalization import (
    contains_answer,
    normalize_answer,
    normalize_text,
    stem_noun,
)

INKS = ("red", "green")


def parse(text):
    return parse_caption(text, inks=INKS)


def test_the_facts_of_a_caption_are_parsed():
    assert parse("a green whale on a pink background") == Scene(("whal",), "green", "pink")
    assert parse("three foxes on a blue background") == Scene(("fox",), None, "blue", 3)
    assert parse("an apple") == Scene(("appl",))


def test_a_pair_is_the_same_read_from_either_side():
    assert parse("a cat to the left of a dog") == parse("a dog to the right of a cat")
    assert parse("a cat above a dog") == parse("a dog below a cat")
    assert parse("a cat above a dog") != parse("a dog above a cat")


@pytest.mark.parametrize("text", ["", "   ", "on a pink background", "pink background whale of"])
def test_a_caption_outside_the_grammar_is_not_parsed(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    ("one", "many"),
    [
        *(("fox", "foxes"), ("horse", "horses"), ("butterfly", "butterflies")),
        *(("cookie", "cookies"), ("bus", "buses"), ("cactus", "cactuses"), ("rose", "roses")),
    ],
)
def test_singular_and_plural_have_one_stem(one, many):
    assert stem_noun(one) == stem_noun(many)


def test_only_what_the_caption_names_is_scored_and_a_wrong_attribute_spoils_the_whole():
    wanted = parse("a green whale on a pink background")
    verdict = caption_matches(parse("a red whale on a pink background"), wanted)
    expected = {"object": True, "ink": False, "background": True, "count": True}
    assert verdict == {**expected, "attributes": False}
    assert "background" not in caption_matches(
        parse("a cat above a dog"), parse("a cat above a dog")
    )


def test_a_caption_that_cannot_be_parsed_is_wrong_in_everything():
    assert not any(caption_matches(None, parse("two foxes on a blue background")).values())


def test_an_invented_ink_spoils_the_whole():
    verdict = caption_matches(parse("a red whale"), parse("a whale"))
    assert verdict["object"]
    assert not verdict["attributes"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Twenty-one!", "21"),
        ("THREE foxes.", "3 foxes"),
        ("a grey colour", "a gray color"),
        ("one two", "1 2"),
    ],
)
def test_texts_that_people_call_equal_are_equal(one, other):
    assert normalize_text(one) == normalize_text(other)


@pytest.mark.parametrize(("one", "other"), [("twenty", "2"), ("forty one", "40 1"), ("whale", "")])
def test_different_answers_stay_different(one, other):
    assert normalize_answer(one) != normalize_answer(other)


def test_normalizing_twice_changes_nothing():
    once = normalize_text("Twenty-one grey whales, ninety nine don't!")
    assert normalize_text(once) == once


def test_an_answer_may_stand_inside_a_sentence_but_not_inside_a_word():
    assert contains_answer("It is green.", "green")
    assert contains_answer("there are three", "3")
    assert not contains_answer("evergreen", "green")
    assert not contains_answer("it is green", "")
