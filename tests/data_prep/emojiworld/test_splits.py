"""The hold-out rules, for worlds of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.emojiworld.splits import HoldOut
from data_prep.hashing import choose_share_by_hash, hash_bucket, sort_by_hash

WORDS = [f"w{i}" for i in range(40)]
INKS = [f"ink{i}" for i in range(8)]


def hold_out(objects, inks, share, *, has_pairs=True):
    return HoldOut.choose_combinations(
        objects=objects,
        inks=inks,
        backgrounds=["white", "pink", "gray"],
        counts=["2", "3", "4"],
        has_pairs=has_pairs,
        share=share,
    )


@given(st.integers(3, 40), st.integers(2, 8), st.floats(0.02, 0.3))
def test_every_member_of_a_held_out_combination_stays_in_training(objects, inks, share):
    objects, inks = WORDS[:objects], INKS[:inks]
    held = hold_out(objects, inks, share).keys
    for kind, partners in (("ink", inks), ("background", ["white", "pink", "gray"])):
        for word in objects:
            lost = [k for k in held if k[0] == kind and k[1] == word]
            assert len(lost) <= len(partners) / 3
        for partner in partners:
            lost = [k for k in held if k[0] == kind and k[2] == partner]
            assert len(lost) <= len(objects) / 3
    for word in objects:
        assert len([k for k in held if k[0] == "pair" and word in k[1:]]) <= (len(objects) - 1) / 3


def test_a_tenth_is_held_out_of_a_world_that_is_large_enough():
    held = hold_out(WORDS, INKS, 0.1).keys
    assert len([k for k in held if k[0] == "ink"]) == 32
    assert len([k for k in held if k[0] == "pair"]) == 78


def test_the_choice_does_not_depend_on_the_order_of_the_words():
    forward = hold_out(WORDS[:9], INKS[:4], 0.1)
    assert forward == hold_out(WORDS[:9][::-1], INKS[:4][::-1], 0.1)


def test_a_pair_held_out_by_its_unsaid_background_alone_is_dropped():
    rules = HoldOut(frozenset({("background", "cat", "pink"), ("pair", "cat", "fish")}))
    assert rules.subset_of_keys([("background", "cat", "pink")]) == "comp"
    assert rules.subset_of_keys([("background", "cat", "pink"), ("pair", "cat", "dog")]) == "drop"
    assert rules.subset_of_keys([("background", "cat", "pink"), ("pair", "cat", "fish")]) == "comp"
    assert rules.subset_of_keys([("background", "cat", "gray"), ("pair", "cat", "dog")]) == "train"


@given(st.lists(st.text(max_size=5), min_size=1), st.floats(0.01, 0.9))
def test_shares_are_the_same_for_any_order_and_never_empty(words, share):
    assert choose_share_by_hash(words, share, "s") == choose_share_by_hash(words[::-1], share, "s")
    assert 1 <= len(choose_share_by_hash(words, share, "s")) <= len(set(words))
    assert set(sort_by_hash(words)) == set(words)


@pytest.mark.parametrize("of", [2, 5, 80])
def test_buckets_fill_evenly(of):
    counts = [0] * of
    for i in range(400 * of):
        counts[hash_bucket("x", i, num_buckets=of)] += 1
    assert max(abs(c - 400) for c in counts) < 120
