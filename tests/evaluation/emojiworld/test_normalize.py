import pytest

from lightning_omni.evaluation.normalize import normalize, normalize_answer, says


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
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(("one", "other"), [("twenty", "2"), ("forty one", "40 1"), ("whale", "")])
def test_different_answers_stay_different(one, other):
    assert normalize_answer(one) != normalize_answer(other)


def test_normalizing_twice_changes_nothing():
    once = normalize("Twenty-one grey whales, ninety nine don't!")
    assert normalize(once) == once


def test_an_answer_may_stand_inside_a_sentence_but_not_inside_a_word():
    assert says("It is green.", "green")
    assert says("there are three", "3")
    assert not says("evergreen", "green")
    assert not says("it is green", "")
