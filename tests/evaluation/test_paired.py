import math
import random

import pytest

from lightning_omni.evaluation.outcome import Outcome, summarize
from lightning_omni.evaluation.paired import case_differences, mean_difference, paired_difference


def outcomes(pairs, metric):
    return [Outcome({metric: pair}) for pair in pairs]


@pytest.mark.parametrize("metric", ["exact", "wer"])
def test_a_paired_difference_is_that_of_the_two_numbers(metric):
    rng = random.Random(0)
    lengths = [rng.randint(3, 9) if metric == "wer" else 1 for _ in range(50)]
    one, two = (outcomes([(rng.randint(0, n), n) for n in lengths], metric) for _ in range(2))
    found = paired_difference(one, two, metric)
    wanted = summarize(one, metric, seed=0).value - summarize(two, metric, seed=0).value
    assert found.mean == pytest.approx(wanted)
    assert 0 < found.error < 0.2


def test_a_paired_difference_to_itself_is_zero_without_error():
    same = outcomes([(1, 1), (0, 1), (1, 1)], "exact")
    found = paired_difference(same, same, "exact")
    assert (found.mean, found.error) == (0, 0)


def test_cases_without_the_metric_are_left_out():
    some = [*outcomes([(1, 1), (0, 1)], "attributes"), Outcome({"exact": (1, 1)})]
    others = [*outcomes([(0, 1), (0, 1)], "attributes"), Outcome({"exact": (0, 1)})]
    assert paired_difference(some, others, "attributes").mean == 0.5


def test_answers_of_other_lengths_differ_by_their_rates():
    short = outcomes([(1, 2), (1, 4)], "wer")
    long = outcomes([(1, 4), (1, 8)], "wer")
    found = paired_difference(short, long, "wer")
    wanted = summarize(short, "wer", seed=0).value - summarize(long, "wer", seed=0).value
    assert found.mean == pytest.approx(wanted)


def test_each_case_keeps_its_place():
    some = [Outcome({"exact": (1, 1)}), Outcome({}), Outcome({"exact": (0, 1)})]
    others = [Outcome({"exact": (0, 1)}), Outcome({"exact": (1, 1)}), Outcome({"exact": (0, 1)})]
    assert case_differences(some, others, "exact") == [1, None, 0]
    assert case_differences(some, others, "wer") == [None] * 3


def test_one_difference_has_no_error():
    assert math.isnan(mean_difference([0.5]).error)
