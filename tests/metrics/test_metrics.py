import pytest
import torch

from lightning_omni.metrics.codebook import CodebookUse
from lightning_omni.metrics.wer import (
    character_errors,
    normalize_transcript,
    word_errors,
)


def test_an_even_codebook_has_full_perplexity_and_a_single_code_has_one():
    even, single = CodebookUse(8), CodebookUse(8)
    even.update(torch.arange(8).repeat(3))
    single.update(torch.full((2, 5), 3))
    assert even.compute()["usage"] == 1
    torch.testing.assert_close(even.compute()["perplexity"], torch.tensor(8.0))
    torch.testing.assert_close(single.compute()["perplexity"], torch.tensor(1.0))
    assert single.compute()["dead_codes"] == 7


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "length"),
    [
        ("a red car", "A red car.", 0, 3),
        ("a red car", "", 3, 3),
        ("a red car", "a red fast car", 1, 3),
        ("it's two", "its two", 1, 2),
    ],
)
def test_word_errors_are_counted_after_normalisation(reference, hypothesis, errors, length):
    count = word_errors(reference, hypothesis)
    assert (count.errors, count.length) == (errors, length)


def test_an_empty_answer_costs_its_whole_reference():
    assert word_errors("three four", "").errors == 2
    assert character_errors("ab", "").errors == 2


def test_normalisation_keeps_words_only():
    assert normalize_transcript("  What's THIS?! ") == "what's this"
