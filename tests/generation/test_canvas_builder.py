"""Holes with something in them: what is given, what may stand where, which lengths are tried."""

import pytest
import torch
from lightning_omni.generation.blank import (
    LONGEST_GAP,
    MAX_TRIES,
    choices_of_lengths,
    media_blank,
    text_blanks,
)
from lightning_omni.generation.part_draft import ImageDraft, SpeechDraft, TextDraft

from lightning_omni.generation.canvas_builder import Grammar
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import Vocab

TEXT = TextTokenizer()
VOCAB = Vocab(TEXT.size, {"speech": 32, "image": 64})
GRAMMAR = Grammar(VOCAB, TEXT, 2, device="cpu")
PAD, END = VOCAB.pad_token_id, VOCAB.special("<|end_of_speech|>")


def blanks(text, *, room=0, growth=1.0):
    draft = TextDraft.parse(text)
    return text_blanks(draft, TEXT, ending=("", [PAD]), room=room, growth=growth)


def allowed(modality, blank):
    return [set(GRAMMAR.allowed[row].tolist()) for row in GRAMMAR.rows(modality, blank)]


def test_a_gap_of_unknown_length_is_tried_from_one_token_to_the_longest():
    for length, blank in enumerate(blanks("a ___ whale"), start=1):
        whale = TEXT.encode(" whale")
        start, stop = 1, 1 + length
        assert blank.gaps == ((start, stop),)
        assert blank.given == dict(enumerate([*whale, PAD], start=stop)) | {0: TEXT.encode("a")[0]}
        assert blank.num_open == length
    assert length == LONGEST_GAP


def test_the_right_filling_makes_the_ids_of_the_whole_text():
    whole = TEXT.encode("a green whale")
    (blank,) = (b for b in blanks("a ___ whale") if b.num_open == len(TEXT.encode(" green")))
    filled = blank.given | dict(zip(range(*blank.gaps[0]), TEXT.encode(" green"), strict=True))
    assert [filled[i] for i in range(blank.length)] == [*whole, PAD]


@pytest.mark.parametrize("gaps", range(1, 12))
def test_the_number_of_combinations_is_bounded(gaps):
    found = choices_of_lengths([None] * gaps)
    assert len(set(found)) == len(found) <= MAX_TRIES + LONGEST_GAP
    assert all((n,) * gaps in found for n in range(1, LONGEST_GAP + 1))
    assert len(found) >= min(LONGEST_GAP**gaps, LONGEST_GAP)


def test_stated_lengths_are_not_searched():
    assert choices_of_lengths([3, None, 2]) == [(3, n, 2) for n in range(1, LONGEST_GAP + 1)]
    assert choices_of_lengths([7]) == [(7,)]


def test_a_gap_at_the_end_goes_on_until_it_ends_by_itself():
    (blank,) = blanks("a green ___", room=12)
    assert blank.length == 12
    first, *others = range(*blank.gaps[0])
    rows = allowed("text", blank)
    assert PAD not in rows[first]
    assert all(PAD in rows[i] for i in others)
    (grown,) = blanks("a green ___", room=12, growth=1.5)
    assert grown.length > blank.length
    (narrow,) = blanks("a green ___")
    assert narrow.num_open == LONGEST_GAP + 1


def test_a_gap_within_a_text_holds_words_and_begins_as_the_draft_spaces_it():
    blank = blanks("un___able, ___ whale")[-1]
    (first, *_), (second, third, *_) = (range(*gap) for gap in blank.gaps)
    rows = allowed("text", blank)
    space = TEXT.encode(" ")[0]
    for i in (first, second, third):
        assert not {PAD, space} & rows[i]
    assert TEXT.encode("bear")[0] in rows[first]
    assert all(TEXT.decode([i]).startswith(" ") for i in rows[second] if i < TEXT.size)
    assert rows[second] < rows[third]


def test_media_end_where_their_draft_ends():
    speech = media_blank(SpeechDraft((0, 16, 1, 17), frozenset({2, 3})), VOCAB, [END])
    assert speech.given.keys() == {0, 1, 4}
    assert speech.given[4] == VOCAB.special("<|end_of_speech|>")
    level = VOCAB.span("speech").start
    rows = allowed("speech", speech)
    assert rows[2] == set(range(level, level + 16))
    assert rows[3] == set(range(level + 16, level + 32))
    image = media_blank(ImageDraft((5,) * 16, frozenset(range(15))), VOCAB, [])
    assert (image.length, image.given) == (16, {15: VOCAB.span("image").start + 5})


def test_rows_of_the_grammar_are_sorted():
    assert all(torch.equal(row, row.sort().values) for row in GRAMMAR.allowed)
