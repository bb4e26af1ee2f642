import json
import math
import shutil
from random import Random

import numpy as np
import pytest
from toy_world import NINE, SpellingRecognizer, TableModel

from lightning_omni.evaluation.examples import Example, Response, draw_samples, load_examples
from lightning_omni.evaluation.random_baseline import derangement
from lightning_omni.evaluation.scorers import is_closest_choice
from lightning_omni.evaluation.statistics import Estimate
from lightning_omni.evaluation.suite import Plan, load_suite
from lightning_omni.evaluation.table import describe_verdict
from lightning_omni.pretrained import fingerprint
from lightning_omni.types import Sample

STEPS = 120  # of the scene classifier
pytestmark = pytest.mark.xdist_group("suite")  # one process trains the scene classifier
PLAN = Plan(NINE, ("test_iid",), limit=40, speech_limit=40, seed=3, batch_size=7, gallery=2)


@pytest.fixture(scope="module")
def suite(toy):
    scorers = {"recognizer": SpellingRecognizer(), "reconstructor": None}
    return load_suite(toy.folder, toy.codes, tasks=NINE, classifier_steps=STEPS, **scorers)


@pytest.fixture(scope="module")
def truths(toy):
    """References of all test examples, by key."""
    examples = [
        example
        for task in NINE
        for example in load_examples(toy.folder, toy.codes, task, "test_iid", limit=60, seed=0)[0]
    ]
    return {example.sample.key: example.reference for example in examples}


def rows_of(suite, responses, out):
    results = suite.evaluate_model(TableModel(responses), PLAN, out)
    return results, [r for r in results["rows"] if r["slice"] is None]


def test_the_ground_truth_is_the_upper_bound_of_every_metric(suite, truths, tmp_path):
    results, rows = rows_of(suite, truths, tmp_path)
    assert {r["task"] for r in rows if r["is_primary"]} == set(NINE)
    for row in rows:
        ceiling = row["ceiling"]
        assert row["failures"] == 0
        assert math.isclose(row["value"], ceiling), row
        assert row["verdict"] == "at the ceiling", row
    assert not results["missing"]


def test_empty_responses_score_zero_and_are_counted(suite, tmp_path):
    _, rows = rows_of(suite, {}, tmp_path)
    for row in rows:
        assert row["value"] == (1 if row["is_lower_better"] else 0), row
        assert row["failures"] == row["n"], row


def test_shuffled_references_score_like_the_random_baseline(suite, truths, tmp_path):
    shuffled = {}
    for task in NINE:
        keys = sorted(k for k in truths if k.startswith(f"{task}-"))
        permutation = derangement(len(keys), Random(1))
        shuffled |= {k: truths[keys[p]] for k, p in zip(keys, permutation, strict=True)}
    _, rows = rows_of(suite, shuffled, tmp_path)
    for row in rows:
        if row["task"] in ("asr", "tts", "t2i", "s2i", "caption"):
            spread = max(0.16, row["high"] - row["low"])
            assert abs(row["value"] - row["chance"]) < spread, row
        if row["is_primary"]:
            assert row["verdict"] != "at the ceiling", row


class Breaking:
    """Raises for every other sample."""

    def __init__(self, truths):
        self.truths = truths

    def answer(self, samples, *, seed):
        if any(int(s.key[-1]) % 2 for s in samples):
            raise ValueError("broken")
        return [self.truths[s.key] for s in samples]


def test_a_raising_sample_costs_one_wrong_answer_not_its_batch(suite, truths, tmp_path):
    plan = Plan(("tqa",), ("test_iid",), 40, 40, 3, 8, 0)
    results = suite.evaluate_model(Breaking(truths), plan, tmp_path)
    broken = [s for s in results["samples"] if int(s["key"][-1]) % 2]
    (row,) = [r for r in results["rows"] if r["slice"] is None]
    assert row["failures"] == len(broken) > 0
    assert math.isclose(row["value"], 1 - len(broken) / 40)
    assert all("ValueError: broken" in s["failure"] for s in broken)


def test_speech_that_is_not_finite_is_a_failure(suite, toy, tmp_path):
    nan = Response(speech=np.full(16000, np.nan, np.float32))
    keys = [f"tts-test_iid-{i:04d}" for i in range(60)]
    plan = Plan(("tts",), ("test_iid",), 5, 5, 3, 8, 1)
    results = suite.evaluate_model(TableModel(dict.fromkeys(keys, nan)), plan, tmp_path)
    assert {s["failure"] for s in results["samples"]} == {"speech is not finite"}


def test_the_same_seed_draws_the_same_examples_and_not_the_first(toy):
    keys = [
        [c.sample.key for c in load_examples(toy.folder, toy.codes, "vqa", "test_iid", **o)[0]]
        for o in ({"limit": 9, "seed": 1}, {"limit": 9, "seed": 1}, {"limit": 9, "seed": 2})
    ]
    assert keys[0] == keys[1] != keys[2]
    assert sorted(keys[0]) != [f"vqa-test_iid-{i:04d}" for i in range(9)]


def test_a_larger_limit_keeps_the_examples_of_a_smaller_one(toy):
    pool = load_examples(toy.folder, toy.codes, "vqa", "test_iid", limit=1, seed=0)[1]
    few, many = (draw_samples(pool, n, seed=4, salt="x") for n in (5, 20))
    assert many[:5] == few


def test_results_table_and_gallery_are_written(suite, truths, tmp_path):
    rows_of(suite, truths, tmp_path)
    entries = json.loads((tmp_path / "gallery.json").read_text())
    assert {e["task"] for e in entries} == set(NINE)
    sides = [e[s] for e in entries for s in ("request", "ground_truth", "generated")]
    files = [file for side in sides for kind, file in side.items() if kind != "text"]
    assert files
    assert all((tmp_path / f).is_file() for f in files)
    assert "| tqa | test_iid | **exact** |" in (tmp_path / "results.md").read_text()


def test_a_split_that_a_task_lacks_is_reported_as_missing(suite, truths, tmp_path):
    plan = Plan(("tqa",), ("test_iid", "test_voice"), 4, 4, 3)
    results = suite.evaluate_model(TableModel(truths), plan, tmp_path)
    assert results["missing"] == [{"task": "tqa", "split": "test_voice"}]


def test_the_scene_classifier_is_trained_once_per_data_folder(suite, toy):
    (kept,) = (toy.folder / "scene_classifier").iterdir()
    before = fingerprint(kept)
    scorers = {"recognizer": None, "reconstructor": None}
    load_suite(toy.folder, toy.codes, tasks=["t2i"], classifier_steps=STEPS, **scorers)
    assert [fingerprint(f) for f in (toy.folder / "scene_classifier").iterdir()] == [before]


def test_a_classifier_cached_by_an_earlier_version_stays_in_use(suite, toy, tmp_path):
    for name in ("manifest.json", "tasks", "media"):
        (tmp_path / name).symlink_to(toy.folder / name)
    shutil.copytree(toy.folder / "scene_classifier", tmp_path / "oracle")
    (config,) = (tmp_path / "oracle").glob("*/config.json")
    path = "lightning_omni.evaluation.{}"
    new, old = "emojiworld.scene_classifier.SceneClassifier", "scene_oracle.SceneOracle"
    config.write_text(config.read_text().replace(path.format(new), path.format(old)))
    scorers = {"recognizer": None, "reconstructor": None}
    again = load_suite(tmp_path, toy.codes, tasks=["t2i"], classifier_steps=STEPS, **scorers)
    assert again.classifier.accuracy == suite.classifier.accuracy
    assert not (tmp_path / "scene_classifier").exists()


def test_a_misrecognized_answer_is_closest_only_if_no_other_is_nearer():
    choices = ("it is gray", "it is pink", "it is blue")
    example = Example(
        Sample("k", "svqa", (), {"answer": "gray"}),
        Response(),
        Response("it is gray"),
        choices=choices,
    )
    assert is_closest_choice("It is great.", example.reference.text, example.choices)
    assert not is_closest_choice("It is pin", example.reference.text, example.choices)
    assert not is_closest_choice(None, example.reference.text, example.choices)
    assert not is_closest_choice("", example.reference.text, example.choices)


@pytest.mark.parametrize(
    ("interval", "metric", "said"),
    [
        ((0.4, 0.3, 0.5), "exact", "better than chance"),
        ((0.2, 0.1, 0.3), "exact", "not distinguishable from chance"),
        ((0.1, 0.0, 0.15), "exact", "worse than chance"),
        ((0.95, 0.9, 1.0), "exact", "at the ceiling"),
        ((0.1, 0.05, 0.15), "wer", "at the ceiling"),
        ((0.9, 0.8, 1.1), "wer", "worse than chance"),
    ],
)
def test_a_verdict_describes_where_the_interval_lies(interval, metric, said):
    value, low, high = interval
    baseline, truth = (0.2, 1.0) if metric == "exact" else (0.7, 0.1)
    estimate = Estimate(value, low, high, 50)
    got = describe_verdict(estimate, random_baseline=baseline, ground_truth=truth, metric=metric)
    assert got == said


class Interrupted(TableModel):
    """Is interrupted at the second task."""

    def answer(self, samples, *, seed):
        if samples[0].key.startswith("vqa"):
            raise KeyboardInterrupt
        return super().answer(samples, seed=seed)


def test_tasks_answered_before_an_interruption_are_in_the_table(suite, truths, tmp_path):
    plan = Plan(("tqa", "vqa"), ("test_iid",), 4, 4, 3)
    with pytest.raises(KeyboardInterrupt):
        suite.evaluate_model(Interrupted(truths), plan, tmp_path)
    table = (tmp_path / "results.md").read_text()
    assert "| tqa |" in table
    assert "| vqa |" not in table
