import threading
from functools import partial

import pytest
import torch

from lightning_omni.evaluation.scoring_queue import MAX_WAITING, ScoringQueue


def test_calls_run_in_order_beside_the_caller_and_without_gradients():
    go, seen = threading.Event(), []

    def call(number):
        assert go.wait(10)
        seen.append((number, torch.is_inference_mode_enabled(), threading.current_thread().name))

    with ScoringQueue() as scoring:
        for number in range(MAX_WAITING):
            scoring.submit(partial(call, number))
        assert not seen  # they wait, the caller does not
        go.set()
    assert [number for number, *_ in seen] == list(range(MAX_WAITING))
    assert all(without for _, without, _ in seen)
    assert {name for *_, name in seen} == {"scoring_0"}


def test_the_caller_waits_when_too_many_calls_wait():
    go, done = threading.Event(), []

    def call():
        assert go.wait(10)
        done.append(1)

    def fill(scoring):
        for _ in range(MAX_WAITING + 1):
            scoring.submit(call)

    with ScoringQueue() as scoring:
        filler = threading.Thread(target=fill, args=(scoring,))
        filler.start()
        filler.join(0.2)
        assert filler.is_alive()
        go.set()
        filler.join(10)
        assert not filler.is_alive()
    assert len(done) == MAX_WAITING + 1


def fail():
    raise ValueError("no score")


def test_an_error_of_the_last_call_is_raised():
    with pytest.raises(ValueError, match="no score"), ScoringQueue() as scoring:
        scoring.submit(fail)


def test_an_error_is_raised_by_a_later_call():
    finished = threading.Event()

    def use():
        with ScoringQueue() as scoring:
            for _ in range(MAX_WAITING):
                scoring.submit(fail)
            scoring.submit(finished.set)

    with pytest.raises(ValueError, match="no score"):
        use()
    assert not finished.is_set()


def test_what_was_answered_is_scored_when_the_caller_is_interrupted():
    done = []

    def use():
        with ScoringQueue() as scoring:
            scoring.submit(partial(done.append, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert done == [1]


def test_a_failure_to_score_is_told_beside_the_error_that_ended_the_evaluation(caplog):
    def use():
        with ScoringQueue() as scoring:
            scoring.submit(fail)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert "scoring failed, too: ValueError: no score" in caplog.text
