import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.errors import OmniError
from lightning_omni.pretrained import FOLDER
from lightning_omni.vocab import RELEASED, Vocab


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 500))
def test_every_id_belongs_to_exactly_one_span(text, speech, image):
    vocab = Vocab(text, {"speech": speech, "image": image})
    covered = [i for span in vocab.spans.values() for i in range(span.start, span.stop)]
    assert covered == list(range(vocab.size))
    assert all(
        span.start <= i < span.stop
        for i in range(0, vocab.size, 7)
        for span in [vocab.spans[vocab.modality_of(i)]]
    )


def test_appending_a_modality_moves_no_older_id():
    old = Vocab(100, {"speech": 10})
    new = Vocab(100, {"speech": 10, "image": 20})
    assert old.spans.items() <= new.spans.items()
    assert old.mask_token_id == new.mask_token_id


@given(st.lists(st.integers(0, 19), max_size=30))
def test_codes_survive_the_trip_through_ids(codes):
    vocab = Vocab(50, {"speech": 10, "image": 20})
    assert vocab.to_codes("image", vocab.to_ids("image", codes)) == codes


def test_a_code_outside_its_span_is_refused():
    with pytest.raises(OmniError, match="image codes reach from 3 to 20"):
        Vocab(50, {"image": 20}).to_ids("image", [3, 20])


def test_the_fingerprint_changes_with_any_size_and_survives_a_round_trip():
    vocab = Vocab(50, {"speech": 10, "image": 20})
    assert Vocab.from_dict(vocab.to_dict()).fingerprint() == vocab.fingerprint()
    for other in (
        Vocab(51, {"speech": 10, "image": 20}),
        Vocab(50, {"speech": 11, "image": 20}),
        Vocab(50, {"image": 20, "speech": 10}),
    ):
        assert other.fingerprint() != vocab.fingerprint()


@pytest.mark.parametrize("spans", [{"text": 3}, {"special": 3}, {"image": 0}])
def test_a_taken_name_or_an_empty_span_is_refused(spans):
    with pytest.raises(OmniError):
        Vocab(50, spans)


RELEASED_SIZES = {"text": 151_643, "speech": 16_384, "image": 8_192}
RELEASED_IDS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|object_ref_start|>": 151646,
    "<|object_ref_end|>": 151647,
    "<|box_start|>": 151648,
    "<|box_end|>": 151649,
    "<|quad_start|>": 151650,
    "<|quad_end|>": 151651,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
    "<tool_call>": 151657,
    "</tool_call>": 151658,
    "<|fim_prefix|>": 151659,
    "<|fim_middle|>": 151660,
    "<|fim_suffix|>": 151661,
    "<|fim_pad|>": 151662,
    "<|repo_name|>": 151663,
    "<|file_sep|>": 151664,
    "<|beginoftext|>": 151665,
    "<|mask|>": 151666,
    "<|begin_of_image|>": 151667,
    "<|end_of_image|>": 151668,
    "<|context_of_image|>": 151669,
    "<|begin_of_video|>": 151670,
    "<|end_of_video|>": 151671,
    "<|context_of_video|>": 151672,
    "<|begin_of_patch|>": 151673,
    "<|end_of_patch|>": 151674,
    "<|context_of_patch|>": 151675,
    "<|begin_of_quad|>": 151676,
    "<|end_of_quad|>": 151677,
    "<|begin_of_ref|>": 151678,
    "<|end_of_ref|>": 151679,
    "<|begin_of_box|>": 151680,
    "<|end_of_box|>": 151681,
    "<|image|>": 151682,
    "<|video|>": 151683,
    "<|begin_of_audio|>": 151684,
    "<|end_of_audio|>": 151685,
    "<|context_of_audio|>": 151686,
    "<|audio|>": 151687,
}


def test_every_released_special_token_has_the_released_id():
    vocab = Vocab.from_sizes(RELEASED_SIZES, "released")
    assert {token: vocab.special_id(token) for token in RELEASED.names} == RELEASED_IDS
    assert (vocab.pad_token_id, vocab.mask_token_id) == (151643, 151666)
    assert vocab.special_id("<|begin_of_speech|>") == 151684
    assert vocab.special_id("<|end_of_turn|>") == 151645


def test_released_codes_have_the_released_ids():
    vocab = Vocab.from_sizes(RELEASED_SIZES, "released")
    assert vocab.to_ids("speech", list(range(16_384))) == list(range(151688, 168072))
    assert vocab.to_ids("image", list(range(8_192))) == list(range(168072, 176264))
    assert vocab.size == 176_264


def test_special_tokens_are_part_of_the_fingerprint_and_of_the_round_trip():
    own, released = (Vocab.from_sizes(RELEASED_SIZES, name) for name in ("native", "released"))
    assert own.fingerprint() != released.fingerprint()
    old = Vocab.from_sizes(RELEASED_SIZES, "own")  # its name of before
    assert (old.special_tokens, old.to_dict()) == (own.special_tokens, own.to_dict())
    again = Vocab.from_dict(released.to_dict())
    assert again.fingerprint() == released.fingerprint()
    assert again.mask_token_id == released.mask_token_id


def test_the_shipped_model_s_vocabulary_has_the_fingerprint_it_was_saved_with():
    plain = json.loads((FOLDER / "vocab.json").read_text())
    vocab = Vocab.from_dict(plain)
    assert vocab.fingerprint() == plain["fingerprint"]
    assert {**vocab.to_dict(), "fingerprint": plain["fingerprint"]} == plain


def test_unknown_special_tokens_are_refused_with_those_there_are():
    with pytest.raises(OmniError, match="unknown special tokens 'mine'; choose one of native"):
        Vocab(50, {"image": 20}, "mine")
