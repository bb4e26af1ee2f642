"""The released text ids, by words whose ids are known."""

import sys
from importlib.util import find_spec

import pytest

from lightning_omni.errors import OmniError
from lightning_omni.tokenizers.text import TextTokenizer
from lightning_omni.vocab import RELEASED

HAS_RANKS = find_spec("dashscope") is not None
needs_ranks = pytest.mark.skipif(not HAS_RANKS, reason="dashscope is not installed")
KNOWN = {
    "system": [8948],
    "user": [872],
    "assistant": [77091],
    "\n": [198],
    "Hello world": [9707, 1879],
    "2026": [17, 15, 17, 21],
}


@pytest.fixture(scope="module")
def text():
    return TextTokenizer("qwen")


@needs_ranks
@pytest.mark.parametrize("words", KNOWN)
def test_known_words_have_their_ids(text, words):
    assert text.encode(words) == KNOWN[words]
    assert text.decode(KNOWN[words]) == words


@needs_ranks
def test_there_are_as_many_text_ids_as_released(text):
    assert text.size == 151_643
    assert text.decode([151_642])


@needs_ranks
@pytest.mark.parametrize("token", [*RELEASED.names, "<|audio_7|>", "<|image_0|>"])
def test_no_special_token_enters_through_text(text, token):
    with pytest.raises(OmniError, match="special token"):
        text.encode(f"say {token}")


def test_without_the_package_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(OmniError, match=r"pip install 'lightning_omni\[qwen\]'"):
        TextTokenizer("qwen")
