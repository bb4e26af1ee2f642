import pytest

from lightning_omni.evaluation.emojiworld.captions import Scene, compare, parse_caption, stem

INKS = ("red", "green")


def parse(text):
    return parse_caption(text, inks=INKS)


def test_a_caption_states_what_it_says():
    assert parse("a green whale on a pink background") == Scene(("whal",), "green", "pink")
    assert parse("three foxes on a blue background") == Scene(("fox",), None, "blue", 3)
    assert parse("an apple") == Scene(("appl",))


def test_a_pair_is_the_same_read_from_either_side():
    assert parse("a cat to the left of a dog") == parse("a dog to the right of a cat")
    assert parse("a cat above a dog") == parse("a dog below a cat")
    assert parse("a cat above a dog") != parse("a dog above a cat")


@pytest.mark.parametrize("text", ["", "   ", "on a pink background", "pink background whale of"])
def test_a_caption_outside_the_grammar_is_not_read(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    ("one", "many"),
    [
        *(("fox", "foxes"), ("horse", "horses"), ("butterfly", "butterflies")),
        *(("cookie", "cookies"), ("bus", "buses"), ("cactus", "cactuses"), ("rose", "roses")),
    ],
)
def test_singular_and_plural_have_one_stem(one, many):
    assert stem(one) == stem(many)


def test_only_what_the_caption_names_is_judged_and_a_wrong_attribute_spoils_the_whole():
    wanted = parse("a green whale on a pink background")
    verdict = compare(parse("a red whale on a pink background"), wanted)
    expected = {"object": True, "ink": False, "background": True, "count": True}
    assert verdict == {**expected, "attributes": False}
    assert "background" not in compare(parse("a cat above a dog"), parse("a cat above a dog"))


def test_an_unread_caption_is_wrong_in_everything():
    assert not any(compare(None, parse("two foxes on a blue background")).values())


def test_an_invented_ink_spoils_the_whole():
    verdict = compare(parse("a red whale"), parse("a whale"))
    assert verdict["object"]
    assert not verdict["attributes"]
