import math
import random

import numpy as np
import pytest

from lightning_omni.evaluation.statistics import (
    Score,
    bootstrap_interval,
    example_differences,
    mean_difference,
    paired_difference,
    summarize_metric,
    wilson_interval,
)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 7), (50, 200)])
def test_wilson_interval_holds_the_share_and_stays_in_the_unit_interval(hits, n):
    low, high = wilson_interval(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert high > low


def test_wilson_interval_covers_the_truth_about_95_times_in_100():
    draws = np.random.default_rng(0).binomial(40, 0.3, size=4000)
    covered = [low <= 0.3 <= high for low, high in (wilson_interval(int(d), 40) for d in draws)]
    assert 0.93 < np.mean(covered) < 0.98


def test_wilson_interval_without_trials_says_nothing():
    assert wilson_interval(0, 0) == (0, 1)


def test_bootstrap_is_a_function_of_its_seed_and_holds_the_ratio():
    rng = np.random.default_rng(1)
    tops, bottoms = rng.integers(0, 4, 80), rng.integers(4, 9, 80)
    low, high = bootstrap_interval(tops, bottoms, seed=5)
    assert (low, high) == bootstrap_interval(tops, bottoms, seed=5)
    assert low < tops.sum() / bottoms.sum() < high


def test_bootstrap_of_equal_utterances_has_no_width():
    assert bootstrap_interval([1, 1, 1], [4, 4, 4], seed=0) == (0.25, 0.25)


def scores(pairs, metric):
    return [Score({metric: pair}) for pair in pairs]


@pytest.mark.parametrize("metric", ["exact", "wer"])
def test_a_paired_difference_is_that_of_the_two_numbers(metric):
    rng = random.Random(0)
    lengths = [rng.randint(3, 9) if metric == "wer" else 1 for _ in range(50)]
    one, two = (scores([(rng.randint(0, n), n) for n in lengths], metric) for _ in range(2))
    found = paired_difference(one, two, metric)
    wanted = (
        summarize_metric(one, metric, seed=0).value - summarize_metric(two, metric, seed=0).value
    )
    assert found.mean == pytest.approx(wanted)
    assert 0 < found.error < 0.2


def test_a_paired_difference_to_itself_is_zero_without_error():
    same = scores([(1, 1), (0, 1), (1, 1)], "exact")
    found = paired_difference(same, same, "exact")
    assert (found.mean, found.error) == (0, 0)


def test_examples_without_the_metric_are_left_out():
    some = [*scores([(1, 1), (0, 1)], "attributes"), Score({"exact": (1, 1)})]
    others = [*scores([(0, 1), (0, 1)], "attributes"), Score({"exact": (0, 1)})]
    assert paired_difference(some, others, "attributes").mean == 0.5


def test_answers_of_other_lengths_differ_by_their_rates():
    short = scores([(1, 2), (1, 4)], "wer")
    long = scores([(1, 4), (1, 8)], "wer")
    found = paired_difference(short, long, "wer")
    wanted = (
        summarize_metric(short, "wer", seed=0).value - summarize_metric(long, "wer", seed=0).value
    )
    assert found.mean == pytest.approx(wanted)


def test_each_example_keeps_its_index():
    some = [Score({"exact": (1, 1)}), Score({}), Score({"exact": (0, 1)})]
    others = [Score({"exact": (0, 1)}), Score({"exact": (1, 1)}), Score({"exact": (0, 1)})]
    assert example_differences(some, others, "exact") == [1, None, 0]
    assert example_differences(some, others, "wer") == [None] * 3


def test_one_difference_has_no_error():
    assert math.isnan(mean_difference([0.5]).error)
