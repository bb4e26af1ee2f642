from lightning_omni.evaluation.choose import Measured, by_quality, choose


def test_each_quality_is_the_cheapest_way_within_its_slack():
    measured = [
        Measured("most", 64, 0.0, 0.0),
        Measured("half", 32, 0.008, 0.01),
        Measured("some", 16, 0.015, 0.01),
        Measured("few", 4, 0.03, 0.01),
    ]
    assert choose(measured) == {"fast": "some", "balanced": "half", "best": "most"}


def test_a_way_that_answers_just_like_the_best_is_the_best_if_it_is_cheaper():
    measured = [Measured("most", 64, 0.0, 0.0), Measured("same", 8, 0.0, 0.0)]
    assert set(choose(measured).values()) == {"same"}


def test_names_are_listed_by_quality():
    chosen = {"t2i": {"fast": "a", "balanced": "b", "best": "c"}}
    assert by_quality(chosen)["balanced"] == {"t2i": "b"}
