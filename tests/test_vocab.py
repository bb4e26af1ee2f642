import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.errors import OmniError
from lightning_omni.vocab import Vocab


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
