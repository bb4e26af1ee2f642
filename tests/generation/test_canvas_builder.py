"""Responses before sampling: fixed ids, allowed tokens, and the lengths of blanks to try."""

import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.generation.allowed_tokens import AllowedTokens
from lightning_omni.generation.response_span import response_span_of_media, response_spans_of_text
from lightning_omni.generation.text_blanks import (
    LONGEST_TRIED,
    MAX_CANDIDATES,
    TextWithBlanks,
    candidate_blank_lengths,
)
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
ALLOWED = AllowedTokens(VOCAB, TEXT, 2, device="cpu")
PAD, END = VOCAB.pad_token_id, VOCAB.special_id("<|end_of_speech|>")


def spans_of(text, *, usual_length=0, factor=1.0):
    return response_spans_of_text(
        TextWithBlanks.parse(text),
        TEXT,
        ending=("", [PAD]),
        usual_length=usual_length,
        factor=factor,
    )


def allowed(modality, span):
    return [
        set(ALLOWED.allowed[row].tolist()) for row in ALLOWED.allowed_set_indices(modality, span)
    ]


@pytest.mark.parametrize(
    ("text", "fillings", "expected"),
    [
        ("a ___ whale", [" green"], "a green whale"),
        ("___ whales", [" two"], "two whales"),
        ("a green ___", [" whale "], "a green whale"),
        ("un___able", ["bear"], "unbearable"),
        ("a ___, and ____\n", [" cat", " dog"], "a cat, and dog\n"),
        ("  two  ___{2}  cats", [" black"], "  two  black  cats"),
    ],
)
def test_text_outside_blanks_is_kept_verbatim(text, fillings, expected):
    assert TextWithBlanks.parse(text).replace_blanks(fillings) == expected


def test_two_underscores_are_no_blank_and_a_length_can_be_stated():
    assert not TextWithBlanks.parse("snake__case").lengths
    text = TextWithBlanks.parse("a ___{3} on ___")
    assert text.lengths == (3, None)
    assert text.has_open_end
    assert not TextWithBlanks.parse("a ___{3}").has_open_end
    for wrong in (0, 65, 12345):
        with pytest.raises(OmniError, match=f"has {wrong} tokens, wanted 1 to 64"):
            TextWithBlanks.parse(f"a ___{{{wrong}}}")
    for wrong in ("{-1}", "{two}", "{}", "{2.5}"):
        with pytest.raises(OmniError, match=f"has the blank '___{wrong}', wanted"):
            TextWithBlanks.parse(f"a ___{wrong} on ___")
    assert TextWithBlanks.parse("a ___ {two}").pieces == ("a ", " {two}")


def test_a_blank_of_unknown_length_is_tried_from_one_token_to_the_longest():
    for length, span in enumerate(spans_of("a ___ whale"), start=1):
        whale = TEXT.encode(" whale")
        start, stop = 1, 1 + length
        assert span.blanks == ((start, stop),)
        assert span.fixed == dict(enumerate([*whale, PAD], start=stop)) | {0: TEXT.encode("a")[0]}
        assert span.num_masked == length
    assert length == LONGEST_TRIED


def test_the_right_filling_makes_the_ids_of_the_whole_text():
    whole = TEXT.encode("a green whale")
    (span,) = (s for s in spans_of("a ___ whale") if s.num_masked == len(TEXT.encode(" green")))
    filled = span.fixed | dict(zip(range(*span.blanks[0]), TEXT.encode(" green"), strict=True))
    assert [filled[i] for i in range(span.length)] == [*whole, PAD]


@pytest.mark.parametrize("blanks", range(1, 12))
def test_the_number_of_combinations_is_bounded(blanks):
    found = candidate_blank_lengths([None] * blanks)
    assert len(set(found)) == len(found) <= MAX_CANDIDATES + LONGEST_TRIED
    assert all((n,) * blanks in found for n in range(1, LONGEST_TRIED + 1))
    assert len(found) >= min(LONGEST_TRIED**blanks, LONGEST_TRIED)


def test_stated_lengths_are_not_searched():
    assert candidate_blank_lengths([3, None, 2]) == [(3, n, 2) for n in range(1, LONGEST_TRIED + 1)]
    assert candidate_blank_lengths([7]) == [(7,)]


def test_a_blank_at_the_end_runs_until_the_model_ends_it():
    (span,) = spans_of("a green ___", usual_length=12)
    assert span.length == 12
    first, *others = range(*span.blanks[0])
    rows = allowed("text", span)
    assert PAD not in rows[first]
    assert all(PAD in rows[i] for i in others)
    (longer,) = spans_of("a green ___", usual_length=12, factor=1.5)
    assert longer.length > span.length
    (narrow,) = spans_of("a green ___")
    assert narrow.num_masked == LONGEST_TRIED + 1


def test_a_blank_within_a_text_holds_words_and_begins_as_the_text_spaces_it():
    span = spans_of("un___able, ___ whale")[-1]
    (first, *_), (second, third, *_) = (range(*blank) for blank in span.blanks)
    rows = allowed("text", span)
    space = TEXT.encode(" ")[0]
    for i in (first, second, third):
        assert not {PAD, space} & rows[i]
    assert TEXT.encode("bear")[0] in rows[first]
    assert all(TEXT.decode([i]).startswith(" ") for i in rows[second] if i < TEXT.size)
    assert rows[second] < rows[third]


def test_infilled_media_end_where_the_users_own_end():
    codes = VOCAB.to_ids("speech", [0, 16, 1, 17])
    speech = response_span_of_media([*codes, END], frozenset({2, 3}))
    assert speech.fixed == {0: codes[0], 1: codes[1], 4: END}
    level = VOCAB.span("speech").start
    rows = allowed("speech", speech)
    assert rows[2] == set(range(level, level + 16))
    assert rows[3] == set(range(level + 16, level + 32))
    image = response_span_of_media(VOCAB.to_ids("image", [5] * 16), frozenset(range(15)))
    assert (image.length, image.fixed) == (16, {15: VOCAB.span("image").start + 5})


def test_allowed_ids_are_sorted():
    assert all(torch.equal(row, row.sort().values) for row in ALLOWED.allowed)
