"""Lengths of responses: the rule that training answers teach, and longer ones for longer texts."""

import logging

import pytest
import torch

from lightning_omni.data.template import Template
from lightning_omni.errors import OmniError
from lightning_omni.generation.denoiser import cache_first_pass
from lightning_omni.generation.lengths import (
    LONGEST,
    TAIL,
    LengthRule,
    fit_length_rules,
    lengthen_responses,
    load_length_rules,
    response_length,
    save_length_rules,
)
from lightning_omni.generation.prompts import PackedPrompts
from lightning_omni.generation.response_span import ResponseSpan
from lightning_omni.nn.segments import SegmentLayout
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
    rule = fit_length_rules([reading(n, 9 + 2 * n) for n in range(5, 40)], TEMPLATE)["tts/0"]
    assert rule.ratio == pytest.approx(2)
    assert rule.num_positions(10) == 9 + 20 + 1  # the terminator


def test_a_response_has_room_for_99_of_100_answers_and_little_more():
    lengths = [(n, 9 + 2 * n + (n * 7) % 5) for n in range(5, 105)]
    rule = fit_length_rules([reading(*pair) for pair in lengths], TEMPLATE)["tts/0"]
    fits = [rule.num_positions(n) >= codes + 1 for n, codes in lengths]
    slack = [rule.num_positions(n) - codes - 1 for n, codes in lengths]
    assert sum(fits) >= 99
    assert max(slack) <= 6


def test_an_answer_that_follows_nothing_has_room_for_the_longest():
    rules = fit_length_rules([answer("no"), answer("blue"), answer("the united states")], TEMPLATE)
    longest = len(TEXT.encode("the united states")) + 1
    assert rules["tqa/0"].num_positions(0) == longest


def test_rules_are_kept_with_the_model(tmp_path):
    rules = {"tts/0": LengthRule(1.59, 7.25)}
    save_length_rules(rules, tmp_path)
    assert load_length_rules(tmp_path) == rules


RULES = {"tts/0": LengthRule(2.0, 1.0, largest=10), "tqa/0": LengthRule(0.0, 6.0)}
FRAMED = Template(VOCAB, TEXT, image_columns=8, codebooks=4, max_tail_pads={})
IMAGE = Sample("key", "t2i", (Turn("user", ()), Turn("assistant", (Part("image"),))))


@pytest.mark.parametrize("options", [{}, {"factor": 1.5}, {"positions": 3}], ids=str)
def test_an_image_has_one_length(options):
    assert response_length({}, TEMPLATE, IMAGE, 0, **options) == 64


@pytest.mark.parametrize(
    ("sample", "options", "expected"),
    [
        (answer(""), {}, 6),
        (answer(""), {"factor": 1.5}, 9),
        (answer(""), {"factor": 2.25}, 13),
        (answer(""), {"positions": 2}, 2),
        (answer(""), {"positions": 2, "factor": 1.5}, 2),
        (reading(4, 0), {}, 12),
        (reading(4, 0), {"factor": 1.5}, 16),
        (reading(4, 0), {"positions": 1}, 4),
        (reading(4, 0), {"positions": 8}, 8),
        (reading(4, 0), {"positions": 9}, 12),
    ],
)
def test_a_length_is_by_rule_or_given_and_speech_has_whole_frames(sample, options, expected):
    assert response_length(RULES, FRAMED, sample, 0, **options) == expected


def test_a_task_without_a_rule_is_refused_by_name():
    with pytest.raises(OmniError, match="not trained on task 'tqa', so the length of part 0"):
        response_length({"tts/0": RULES["tts/0"]}, TEMPLATE, answer(""), 0)
    assert response_length({}, TEMPLATE, answer(""), 0, positions=5) == 5


def test_an_input_far_beyond_those_of_training_is_warned_about(caplog):
    with caplog.at_level(logging.WARNING):
        response_length(RULES, TEMPLATE, reading(11, 0), 0)
        assert not caplog.records
        response_length(RULES, TEMPLATE, reading(30, 0), 0)
    assert "the input is 3.0 times as long as any in training" in caplog.text


PROMPT = 3


def packed_of(spans):
    lengths = [PROMPT + span.length for span in spans]
    index = torch.cat([torch.arange(n) for n in lengths])
    ids = torch.where(index < PROMPT, 1, VOCAB.mask_token_id)
    positions = (index >= PROMPT).nonzero().squeeze(1)
    places = torch.stack((index, index * 0, index * 0), dim=1)
    return PackedPrompts(ids, places, SegmentLayout.from_lengths(lengths, device="cpu"), positions)


def lengthened(spans, contents):
    """Lengthen once by a model that is certain of how many tokens each answer has."""
    packed = packed_of(spans)
    lengths = torch.tensor(packed.layout.lengths)
    place = torch.cat([torch.arange(n) for n in packed.layout.lengths]) - PROMPT
    num_tokens = torch.tensor(contents).repeat_interleave(lengths)

    def logits_at(at, allowed):
        is_behind = place[at] >= num_tokens[at]
        is_pad = allowed == VOCAB.pad_token_id
        return torch.where(is_pad == is_behind[:, None], 30.0, 0.0)

    allowed = torch.tensor([5, 7, VOCAB.pad_token_id]).sort().values
    return lengthen_responses(spans, lambda *_: logits_at, packed, allowed, (VOCAB.pad_token_id,))


def settled(lengths, contents):
    spans, rounds = [ResponseSpan(n) for n in lengths], []
    while not rounds or rounds[-1] != spans:
        rounds.append(spans)
        spans = lengthened(spans, contents)
    return [[span.length for span in own] for own in rounds]


@pytest.mark.parametrize("contents", [0, 1, 5, 6, 20, 63, 150, 500])
@pytest.mark.parametrize("length", [1, 4, 6, 30, 255, 256, 300])
def test_a_text_is_lengthened_until_half_its_tail_lies_behind_the_end(length, contents):
    *_, before, last = [[None], *settled([length], [contents])]
    tail = min(TAIL, last[0])
    behind = last[0] - max(contents, last[0] - tail)
    assert behind * 2 >= tail or last[0] == max(length, LONGEST)
    if before[0] is not None:
        assert before[0] < last[0] <= LONGEST
        tail = min(TAIL, before[0])
        assert (before[0] - max(contents, before[0] - tail)) * 2 < tail
    else:
        assert last[0] == length


def test_texts_of_a_batch_are_lengthened_as_if_each_were_alone():
    lengths, contents = [4, 9, 30, 12, 256], [40, 2, 10, 500, 500]
    for n in range(5):
        alone = [own[0] for own in settled(lengths[n : n + 1], contents[n : n + 1])]
        together = [own[n] for own in settled(lengths, contents)]
        assert together[: len(alone)] == alone
        assert set(together[len(alone) :]) <= {alone[-1]}


@pytest.mark.parametrize(
    "span",
    [
        ResponseSpan(4, {0: 5}, frozenset({1, 2, 3}), blanks=((1, 4),)),
        ResponseSpan(4, {3: VOCAB.pad_token_id}),
        ResponseSpan(5, no_end=frozenset({0}), blanks=((0, 5),)),
        ResponseSpan(5, no_end=frozenset({0}), blanks=((0, 1), (1, 5))),
    ],
    ids=["piece and open end", "fixed end", "one blank only", "two blanks only"],
)
def test_a_response_with_something_given_is_not_lengthened(span):
    free = ResponseSpan(4)
    found = lengthened([free, span, free], [99, 99, 1])
    assert found[1] == span
    assert found[0].length > free.length
    assert found[2] == free


def test_the_first_pass_is_not_repeated_while_the_ids_are_the_same():
    calls = []

    def denoise(ids, positions):
        calls.append(ids.clone())
        table = torch.arange(4.0)[:, None] + ids.sum()
        return lambda at, allowed: table[at].expand(-1, len(allowed))

    remembered, ids = cache_first_pass(denoise), torch.tensor([1, 9, 9, 2])
    every, some, allowed = torch.tensor([1, 2]), torch.tensor([2]), torch.arange(3)
    first = remembered(ids, every)(every, allowed)
    assert torch.equal(remembered(ids.clone(), every)(every, allowed), first)
    assert len(calls) == 1
    assert torch.equal(remembered(ids, some)(some, allowed), first[1:])
    assert len(calls) == 2  # a step that committed nothing is a pass of its own
    other = ids.index_fill(0, torch.tensor([1]), 3)
    for n in (3, 4):
        assert torch.equal(remembered(other, some)(some, allowed), first[1:] - 6)
        assert len(calls) == n


def test_a_first_pass_over_other_ids_is_not_reused():
    calls = []

    def denoise(ids, positions):
        calls.append(ids.clone())
        return lambda at, allowed: ids[at][:, None].expand(-1, len(allowed)).float()

    remembered, at, allowed = cache_first_pass(denoise), torch.tensor([1]), torch.arange(2)
    for n, ids in enumerate((torch.tensor([1, 9]), torch.tensor([1, 3]), torch.tensor([1, 9])), 1):
        assert remembered(ids, at)(at, allowed).tolist() == [[float(ids[1])] * 2]
        assert len(calls) == n
