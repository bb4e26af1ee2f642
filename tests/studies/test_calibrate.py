import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

import lightning_omni.studies.calibrate as verb
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.generation.modality_defaults import PRESETS
from lightning_omni.generation.presets import load_presets
from lightning_omni.studies.calibrate import (
    CalibrationRow,
    Candidate,
    calibration_table,
    choose_configs,
    draw_pareto,
    group_choices_by_preset,
    pareto_front,
)


def row(config, value, forwards, *, difference=0.0, difference_error=0.0):
    return CalibrationRow(
        **{"task": "t2i", "config": config, "metric": "m", "value": value, "forwards": forwards},
        **{"low": value - 0.1, "high": value + 0.1, "n": 5, "is_lower_better": False},
        **{"difference": difference, "difference_error": difference_error, "seconds": 0.5},
    )


def test_the_front_holds_what_no_other_config_beats():
    rows = [row("a", 0.9, 8), row("b", 0.8, 8), row("c", 0.7, 4), row("d", 0.9, 16)]
    assert [r.config for r in pareto_front(rows)] == ["a", "c"]
    rows = [replace(r, is_lower_better=True) for r in rows]
    assert [r.config for r in pareto_front(rows)] == ["c"]


def test_a_figure_is_drawn_for_each_task(tmp_path):
    draw_pareto([row("a", 0.9, 8), replace(row("b", 0.5, 4), task="tts")], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pareto_t2i.png", "pareto_tts.png"]


def test_the_table_has_every_config_its_difference_and_what_was_chosen():
    measured = {"difference": -0.02, "difference_error": 0.01}
    rows = [row("plain", 0.9, 8, **measured), row("fast", 0.88, 4, **measured)]
    choices = {"t2i": {"fast": "fast", "balanced": "plain", "best": "plain"}}
    text = calibration_table(rows, choices)
    assert "| plain | 0.900 | 0.800 to 1.000 |  | 8.0 | 0.500 |" in text
    assert "| fast | 0.880 | 0.780 to 0.980 | -0.020 ± 0.010 | 4.0 | 0.500 |" in text
    assert "Chosen: fast fast, balanced plain, best plain." in text


def test_of_a_stopped_calibration_the_tasks_that_are_done_are_kept(tmp_path, monkeypatch):
    def compare(omni, suite, plan, task, configs):
        if task == "vqa":
            raise KeyboardInterrupt
        return [row("few", 0.9, 4)], dict.fromkeys(PRESETS, "few")

    used = {"precision": "float32", "attention": "sdpa"}
    omni = SimpleNamespace(describe_computation=lambda: used)
    monkeypatch.setattr(verb, "load_model_and_suite", lambda *_, **__: (omni, None))
    monkeypatch.setattr(verb, "fingerprint", lambda _: "x")
    monkeypatch.setattr(verb, "_compare_configs", compare)
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    few = GenerationConfig(num_steps=4)
    options = {"split": "val", "limit": 1, "speech_limit": 1, "seed": 0, "into_model": True}
    with pytest.raises(KeyboardInterrupt):
        verb.calibrate(
            **{"model": model, "data": tmp_path, "out": out, "tasks": ["t2i", "vqa"]},
            configs={"few": few},
            **options,
        )
    written = sorted(path.name for path in out.iterdir())
    assert written == ["calibration.json", "calibration.md", "pareto_t2i.png"]
    assert used.items() <= json.loads((out / "calibration.json").read_text()).items()
    assert load_presets(model) == {preset: {"t2i": few} for preset in PRESETS}


def test_each_preset_is_the_cheapest_config_within_its_tolerance():
    candidates = [
        Candidate("most", 64, 0.0, 0.0),
        Candidate("half", 32, 0.008, 0.01),
        Candidate("some", 16, 0.015, 0.01),
        Candidate("few", 4, 0.03, 0.01),
    ]
    assert choose_configs(candidates) == {"fast": "some", "balanced": "half", "best": "most"}


def test_a_config_that_answers_just_like_the_best_is_the_best_if_it_is_cheaper():
    candidates = [Candidate("most", 64, 0.0, 0.0), Candidate("same", 8, 0.0, 0.0)]
    assert set(choose_configs(candidates).values()) == {"same"}


def test_names_are_listed_by_preset():
    chosen = {"t2i": {"fast": "a", "balanced": "b", "best": "c"}}
    assert group_choices_by_preset(chosen)["balanced"] == {"t2i": "b"}
