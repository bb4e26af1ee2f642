import random
import statistics

import pytest
import torch

from lightning_omni.errors import OmniError
from lightning_omni.evaluation.statistics import (
    Score,
    paired_difference,
    paired_difference_over_seeds,
)
from lightning_omni.studies.experiments.comparison import (
    compare_variants,
    comparison_table,
    draw_differences,
)
from lightning_omni.studies.experiments.measurements import Measurement, read_or_measure

NUM_CASES = 40


def answers(*, seed, chance):
    rng = random.Random(seed)
    return [Score({"exact": (float(rng.random() < chance), 1.0)}) for _ in range(NUM_CASES)]


def bounds(*, seed):
    rng = random.Random(seed)
    lengths = [random.Random(n).randint(3, 9) for n in range(NUM_CASES)]
    return [Score({"text/nats_per_token": (n * (2 + rng.random()), n)}) for n in lengths]


def measured(scores, **more):
    return Measurement([str(n) for n in range(len(scores))], scores, **more)


def runs(seeds, variants=("first", "second", "third")):
    return {
        variant: {
            seed: {
                "vqa": measured(answers(seed=f"{variant}{seed}", chance=0.5), forwards=4.0),
                "nelbo": measured(bounds(seed=f"{variant}{seed}")),
            }
            for seed in seeds
        }
        for variant in variants
    }


def test_one_seed_s_difference_is_the_paired_one_with_its_error():
    one, other = (answers(seed=s, chance=0.5) for s in (1, 2))
    over_seeds, over_cases = paired_difference_over_seeds([one], [other], "exact")
    wanted = paired_difference(one, other, "exact")
    assert (over_cases.mean, over_cases.error) == (wanted.mean, wanted.error)
    assert over_seeds.mean == pytest.approx(wanted.mean)
    assert over_seeds.error != over_seeds.error  # one value has no spread


def test_the_error_over_seeds_is_that_of_the_seeds_differences():
    pairs = [[answers(seed=(s, k).__repr__(), chance=0.5) for s in range(3)] for k in range(2)]
    over_seeds, _ = paired_difference_over_seeds(*pairs, "exact")
    each = [paired_difference(a, b, "exact").mean for a, b in zip(*pairs, strict=True)]
    assert over_seeds.mean == pytest.approx(statistics.fmean(each))
    assert over_seeds.error == pytest.approx(statistics.stdev(each) / 3**0.5)


def test_seeds_that_agree_on_every_case_leave_the_error_over_examples_as_it_is():
    one, other = (answers(seed=s, chance=0.5) for s in (1, 2))
    over_seeds, over_cases = paired_difference_over_seeds([one] * 4, [other] * 4, "exact")
    assert over_seeds.error == 0
    assert over_cases.error == pytest.approx(paired_difference(one, other, "exact").error)


def test_independent_seeds_shrink_the_error_over_examples():
    ones = [answers(seed=f"a{s}", chance=0.5) for s in range(64)]
    others = [answers(seed=f"b{s}", chance=0.5) for s in range(64)]
    _, over_cases = paired_difference_over_seeds(ones, others, "exact")
    alone = [paired_difference(a, b, "exact").error for a, b in zip(ones, others, strict=True)]
    assert over_cases.error == pytest.approx(statistics.fmean(alone) / 8, rel=0.3)


def test_a_row_adds_up_its_seeds():
    rows = compare_variants(runs([1, 2, 3]), seed=0)
    assert [(r.test, r.variant) for r in rows[:3]] == [
        ("vqa", a) for a in ("first", "second", "third")
    ]
    assert rows[0].difference is None
    for row, first in ((rows[1], rows[0]), (rows[5], rows[3])):
        assert row.mean == pytest.approx(statistics.fmean(row.by_seed.values()))
        assert row.error == pytest.approx(statistics.stdev(row.by_seed.values()) / 3**0.5)
        assert row.difference == pytest.approx(row.mean - first.mean)
        assert (row.low, row.high) == (None, None)
        assert row.n == NUM_CASES
    assert (rows[0].is_lower_better, rows[3].is_lower_better) == (False, True)
    assert (rows[0].forwards, rows[3].forwards) == (4.0, None)


def test_one_seed_has_an_interval_and_no_error_over_seeds():
    row = compare_variants(runs([1]), seed=0)[1]
    assert row.low < row.mean < row.high
    assert (row.error, row.error_over_seeds) == (None, None)
    assert row.error_over_examples > 0


def test_other_cases_are_not_compared():
    mixed = runs([1], variants=("first", "second"))
    mixed["second"][1]["vqa"].keys[0] = "another"
    with pytest.raises(OmniError, match="variant 'second' has other examples of vqa"):
        compare_variants(mixed, seed=0)


def test_a_metric_that_a_variant_has_no_case_of_is_named():
    mixed = runs([1], variants=("first", "second"))
    mixed["second"][1]["nelbo"] = measured([Score({})] * NUM_CASES)
    with pytest.raises(OmniError, match="variant 'second' has no example of nelbo"):
        compare_variants(mixed, seed=0)


def test_the_table_has_a_line_for_every_row_and_the_picture_is_drawn(tmp_path):
    for seeds in ([1], [1, 2]):
        rows = compare_variants(runs(seeds), seed=0)
        text = comparison_table("name", "A beats B.", rows, seeds=seeds)
        assert sum(line.startswith(("| vqa", "| nelbo")) for line in text.splitlines()) == len(rows)
        assert "nan" not in text
        draw_differences(rows, tmp_path / f"{len(seeds)}.png")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_measurement_is_kept_by_what_was_asked(tmp_path):
    made = []

    def measure():
        made.append(1)
        return measured(answers(seed=0, chance=0.5), errors={"exact": 0.1}, forwards=2.0)

    cpu = torch.device("cpu")
    first = read_or_measure(tmp_path, "vqa", {"limit": 3}, measure, device=cpu)
    again = read_or_measure(tmp_path, "vqa", {"limit": 3}, measure, device=cpu)
    assert again == first == measure()
    read_or_measure(tmp_path, "vqa", {"limit": 4}, measure, device=cpu)
    assert len(made) == 3
