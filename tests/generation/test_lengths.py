"""How long a hole is made: the rule that training answers teach."""

import pytest

from lightning_omni.data.template import Template
from lightning_omni.generation.lengths import LengthRule, fit_lengths, load_lengths, save_lengths
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.types import Part, Sample, Turn
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
TEMPLATE = Template(VOCAB, TEXT, image_columns=8, codebooks=1, max_tail_pads={})


def reading(letters, codes):
    asked, said = Part("text", text="a" * letters), Part("speech", codes=(0,) * codes)
    return Sample("key", "tts", (Turn("user", (asked,)), Turn("assistant", (said,))))


def answer(words):
    asked, said = Part("text", text="what"), Part("text", text=words)
    return Sample("key", "tqa", (Turn("user", (asked,)), Turn("assistant", (said,))))


def test_speech_follows_the_characters_of_its_text_and_a_constant():
    rule = fit_lengths([reading(n, 9 + 2 * n) for n in range(5, 40)], TEMPLATE)["tts/0"]
    assert rule.ratio == pytest.approx(2)
    assert rule.positions(10) == 9 + 20 + 1  # the terminator


def test_a_hole_has_room_for_99_of_100_answers_and_little_more():
    lengths = [(n, 9 + 2 * n + (n * 7) % 5) for n in range(5, 105)]
    rule = fit_lengths([reading(*pair) for pair in lengths], TEMPLATE)["tts/0"]
    fits = [rule.positions(n) >= codes + 1 for n, codes in lengths]
    slack = [rule.positions(n) - codes - 1 for n, codes in lengths]
    assert sum(fits) >= 99
    assert max(slack) <= 6


def test_an_answer_that_follows_nothing_has_room_for_the_longest():
    rules = fit_lengths([answer("no"), answer("blue"), answer("the united states")], TEMPLATE)
    longest = len(TEXT.encode("the united states")) + 1
    assert rules["tqa/0"].positions(0) == longest


def test_rules_are_kept_with_the_model(tmp_path):
    rules = {"tts/0": LengthRule(1.59, 7.25)}
    save_lengths(rules, tmp_path)
    assert load_lengths(tmp_path) == rules
