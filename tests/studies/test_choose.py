from lightning_omni.studies.choose import Candidate, by_quality, choose


def test_each_quality_is_the_cheapest_way_within_its_slack():
    candidates = [
        Candidate("most", 64, 0.0, 0.0),
        Candidate("half", 32, 0.008, 0.01),
        Candidate("some", 16, 0.015, 0.01),
        Candidate("few", 4, 0.03, 0.01),
    ]
    assert choose(candidates) == {"fast": "some", "balanced": "half", "best": "most"}


def test_a_way_that_answers_just_like_the_best_is_the_best_if_it_is_cheaper():
    candidates = [Candidate("most", 64, 0.0, 0.0), Candidate("same", 8, 0.0, 0.0)]
    assert set(choose(candidates).values()) == {"same"}


def test_names_are_listed_by_quality():
    chosen = {"t2i": {"fast": "a", "balanced": "b", "best": "c"}}
    assert by_quality(chosen)["balanced"] == {"t2i": "b"}
