import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.text import DEFAULT_RANKS, TextTokenizer, check_same_text_ids
from lightning_omni.vocab import NATIVE, RELEASED

TEXT = TextTokenizer()
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0|"), max_size=60)


@given(plain)
def test_any_text_survives_the_round_trip(text):
    assert TEXT.decode(TEXT.encode(text)) == unicodedata.normalize("NFC", text)


@given(plain)
def test_ids_stay_inside_the_text_span(text):
    assert all(0 <= i < TEXT.size for i in TEXT.encode(text))


@pytest.mark.parametrize("token", sorted({*NATIVE.names, *RELEASED.names}))
def test_special_tokens_in_user_text_are_refused(token):
    with pytest.raises(OmniError, match="special token"):
        TEXT.encode(f"draw {token} please")


@pytest.mark.parametrize(
    ("text", "word"), [("a\0b", "NUL"), ("\ud800", "surrogate"), ("x" * 20000, "bytes")]
)
def test_unusable_text_is_refused_by_name(text, word):
    with pytest.raises(OmniError, match=word):
        TEXT.encode(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "of 1 differences .* id 1023 here and None there"),
        (lambda lines: [*lines, "enp6eg== 1024"], "of 1 differences .* b'zzzz', id None here and"),
        (
            lambda lines: [lines[0].replace(" 0", " 1"), lines[1].replace(" 1", " 0"), *lines[2:]],
            "",
        ),
    ],
)
def test_text_ids_are_compared_with_those_beside_weights(tmp_path, change, said):
    path = tmp_path / "text.tiktoken"
    lines = DEFAULT_RANKS.read_text().splitlines()
    path.write_text("\n".join(["# pattern: qwen", *reversed(lines)]))
    check_same_text_ids(TEXT, path)
    path.write_text("\n".join(change(lines)))
    with pytest.raises(OmniError, match=f"{said}.*; set data.text_ranks to '{path}'"):
        check_same_text_ids(TEXT, path)
