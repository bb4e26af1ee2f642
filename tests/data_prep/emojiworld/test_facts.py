"""Facts: one answer per question, and every sum correct."""

import pytest

from data_prep.emojiworld import facts
from data_prep.emojiworld.lexicon import number_in_words
from data_prep.presets import PRESETS
from data_prep.sources import NPM_SOURCES


def test_sums_are_correct():
    made = {f.question: f.answer for f in facts.sums_from_zero(20)}
    words = [number_in_words(n) for n in range(41)]
    assert len(set(words)) == 41
    for a in range(21):
        for b in range(21):
            assert made[f"what is {words[a]} plus {words[b]}"] == words[a + b]
    assert len(made) == 21 * 21


@pytest.mark.parametrize(
    "collection",
    [
        facts.sums_from_one(5),
        facts.sums_from_zero(20),
        facts.everyday_facts(),
        facts.capital_facts(),
    ],
)
def test_no_question_has_two_answers_and_each_answer_is_in_its_sentence(collection):
    questions = [f.question for f in collection]
    assert len(set(questions)) == len(questions)
    for fact in collection:
        assert fact.answer in fact.sentence


def test_everyday_and_capitals_agree_where_they_overlap():
    known = {f.question: f.answer for f in facts.capital_facts()}
    for fact in facts.everyday_facts():
        assert known.get(fact.question, fact.answer) == fact.answer


def test_mini_trains_on_art_without_share_alike_licences():
    for style in PRESETS["mini"].world.styles:
        assert "SA" not in NPM_SOURCES[style].licence.split("-")


@pytest.mark.parametrize("fact", facts.sums_from_one(5), ids=lambda f: f.question)
def test_other_words_ask_for_the_same_sum(fact):
    wanted = fact.question.removeprefix("what is ")
    others = facts.rephrase_sum(fact.question)
    assert len({*others, fact.question}) == 4
    assert all(other.endswith(wanted) for other in others)


def test_only_sums_are_asked_in_other_words():
    assert [facts.rephrase_sum(f.question) for f in facts.everyday_facts()] == [[]] * len(
        facts.everyday_facts()
    )
