import numpy as np
import pytest

from lightning_omni.evaluation.statistics import bootstrap_interval, wilson_interval


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
