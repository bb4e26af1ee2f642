import random

import pytest

from lightning_omni.evaluation.calibrate import paired_difference
from lightning_omni.evaluation.outcome import Outcome, summarize
from lightning_omni.evaluation.pareto import draw_pareto, front


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


def row(way, value, forwards, *, is_lower_better=False):
    return {
        **{"task": "t2i", "way": way, "metric": "m", "value": value, "forwards": forwards},
        **{"low": value - 0.1, "high": value + 0.1, "n": 5, "is_lower_better": is_lower_better},
    }


def test_the_front_holds_what_no_other_way_beats():
    rows = [row("a", 0.9, 8), row("b", 0.8, 8), row("c", 0.7, 4), row("d", 0.9, 16)]
    assert [r["way"] for r in front(rows)] == ["a", "c"]
    rows = [{**r, "is_lower_better": True} for r in rows]
    assert [r["way"] for r in front(rows)] == ["c"]


def test_a_picture_is_drawn_for_each_task(tmp_path):
    draw_pareto([row("a", 0.9, 8), {**row("b", 0.5, 4), "task": "tts"}], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pareto_t2i.png", "pareto_tts.png"]
