"""Speed beside the peer must not fall: ratios of one run against recorded ones and their noise."""

import json
from pathlib import Path

import pytest

from lightning_omni.studies.bench.machine import describe_machine
from lightning_omni.studies.bench.peak_memory import DTYPES
from lightning_omni.studies.bench.sampling import RequestShape, compare_sampling
from lightning_omni.studies.bench.training_steps import compare_training
from lightning_omni.studies.bench.workload import Shape

RESULTS = Path(__file__).parents[3] / "docs" / "results" / "bench"
pytestmark = pytest.mark.slow
NOISE = 4
ELSEWHERE = 0.6  # of the recorded ratio, on another processor


def recorded(suite, **wanted):
    results = json.loads((RESULTS / f"{suite}.json").read_text())
    (row,) = (r for r in results["rows"] if all(r[k] == v for k, v in wanted.items()))
    return row, results["machine"]["processor"]


def assert_no_slower(now, before, processor):
    margin = NOISE * (now["ratio_spread"] + before["ratio_spread"])
    is_same = describe_machine(dim=64, device="cpu", repeats=1)["processor"] == processor
    floor = before["ratio"] if is_same else ELSEWHERE * before["ratio"]
    assert now["ratio"] > floor - margin, f"{now['ratio']:.2f} times, {floor:.2f} is expected"


def test_a_training_step_is_as_far_ahead_of_the_peer_as_it_was():
    pytest.importorskip("transformers")
    before, processor = recorded("train", vocab_size=20_000)
    dtype = DTYPES[before["dtype"]]
    now = compare_training(Shape(vocab_size=20_000), dtype=dtype, repeats=5, seed=0)
    assert_no_slower(now, before, processor)


def test_sampling_is_as_far_ahead_of_the_peer_as_it_was():
    pytest.importorskip("transformers")
    before, processor = recorded("sample", vocab_size=20_000, steps=16)
    request = RequestShape(before["prompt"], before["answer"])
    first = next(compare_sampling(Shape(), request, steps=[16], repeats=5, seed=0))
    assert first["equal_tokens"] == 1
    assert_no_slower(first, before, processor)
