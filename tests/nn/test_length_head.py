"""Classes of lengths and their quantiles."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_omni.nn.length_head import LengthHead


def head(longest=40, ratio=1.2):
    return LengthHead(4, 8, longest=longest, ratio=ratio)


@given(st.integers(1, 300), st.floats(1.01, 2))
def test_every_length_up_to_the_longest_has_one_class_whose_end_is_no_shorter(longest, ratio):
    made = head(longest, ratio)
    lengths = torch.arange(1, longest + 1)
    ends = made.ends[made.classes(lengths)]
    assert (ends >= lengths).all()
    assert (ends <= (lengths * ratio).ceil()).all()
    assert made.ends[-1] == longest
    assert made.classes(torch.tensor([longest + 1])) == len(made.ends) - 1


@given(st.lists(st.floats(-5, 5), min_size=10, max_size=10), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_quantile_is_never_shorter_and_holds_so_much(scores, low, high):
    made = head(10, 1.0)
    logits = torch.tensor([scores])
    low, high = sorted((low, high))
    short, long = (int(made.positions(logits, q)) for q in (low, high))
    assert short <= long
    held = logits.double().softmax(-1)[0, :long].sum()
    assert held >= high - 1e-9
    assert long == 1 or logits.double().softmax(-1)[0, : long - 1].sum() <= high + 1e-9


def test_of_a_certain_head_every_quantile_is_the_same():
    made = head(10, 1.0)
    logits = torch.full((1, 10), -50.0)
    logits[0, 6] = 50.0
    assert {int(made.positions(logits, q)) for q in (0.01, 0.5, 0.99, 1.0)} == {7}
