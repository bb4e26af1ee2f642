"""Evaluation reads data at URLs as it reads local folders."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from servers import serving
from test_commands import sound, write_corpus

from data_prep.prepare_corpus import prepare_corpus
from lightning_omni.callbacks.evaluate_stage import EvaluateStage
from lightning_omni.data.encoding.ensure_codes import ensure_codes
from lightning_omni.data.shards import read_samples
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.command import evaluate
from lightning_omni.evaluation.emojiworld.train_classifier import classifier_folder
from lightning_omni.evaluation.original_media import read_speech
from lightning_omni.evaluation.provenance import manifest_hash
from lightning_omni.evaluation.tokenizers import draw_recording_keys
from lightning_omni.generation.config import GenerationConfig
from lightning_omni.pretrained import resolve_pretrained
from lightning_omni.studies.calibrate import calibrate
from lightning_omni.studies.experiments import command
from lightning_omni.studies.experiments.command import experiment
from lightning_omni.studies.experiments.recipe import (
    build_module_and_data,
    load_recipe,
    with_settings,
)
from lightning_omni.studies.experiments.training import TRAINED
from lightning_omni.studies.experiments.variants import Variant

OWN_DATA = Path(__file__).parents[3] / "recipes/debug/own_data.yaml"

PLAN = {"tasks": ["tqa"], "splits": ["test_iid"], "limit": 4, "speech_limit": 4, "seed": 1}


@pytest.fixture
def data(tmp_path):
    lines = [
        {"messages": [{"role": "user", "content": f"what is {n} plus 1"}, *answer]}
        for n in range(6)
        for answer in [[{"role": "assistant", "content": str(n + 1)}]]
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    speech = write_corpus(tmp_path / "speech", "flac", sound, 0, 6)
    for name, source in (("messages", tmp_path / "m.jsonl"), ("speech_tars", speech)):
        prepare_corpus(name, [source], tmp_path / "data", split="test_iid", facts={})
    return tmp_path / "data"


def test_the_scores_at_a_url_are_those_of_the_folder(data, tmp_path):
    few = GenerationConfig(num_steps=2)
    given = {**PLAN, "model": "bundled", "sampling": few, "gallery": 0, "device": "cpu"}
    with serving(data) as server:
        url = server.url.replace("http://", "http://user:secret@")
        with pytest.raises(OmniError, match=r"are not encoded .* run `lightning_omni encode`"):
            evaluate(**given, data=url, out=tmp_path / "none")
        local = evaluate(**given, data=str(data), out=tmp_path / "local")
        found = evaluate(**given, data=url, out=tmp_path / "url")
    assert found["rows"] == local["rows"]
    assert found["manifest_sha256"] == local["manifest_sha256"]
    assert found["codes"] == local["codes"]
    assert "secret" not in (tmp_path / "url/results.json").read_text()


def dialogues(folder, *splits):
    """Prepare and encode dialogues of several splits, and write a recipe of them."""
    for split in splits:
        lines = [
            {"messages": [{"role": "user", "content": f"{split} {n}"}, *answer]}
            for n in range(6)
            for answer in [[{"role": "assistant", "content": str(n)}]]
        ]
        (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
        prepare_corpus("messages", [folder / "m.jsonl"], folder / "d", split=split, facts={})
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"base: {OWN_DATA}\ndata: {{init_args: {{tasks: {{tqa: 1}}}}}}\n")
    return folder / "d", recipe


def encoded(data, recipe):
    settings = {"data.init_args.data": str(data)}
    module = build_module_and_data(with_settings(load_recipe(recipe), settings))[1]
    ensure_codes(module.encoding_settings())
    return module


def test_calibrations_at_a_url_are_those_of_the_folder(tmp_path):
    data, _ = dialogues(tmp_path, "train", "val")
    few = {name: GenerationConfig(num_steps=n) for name, n in (("one", 1), ("two", 2))}
    plan = {"model": "bundled", "tasks": ["tqa"], "split": "val", "limit": 3, "speech_limit": 3}
    plan |= {"seed": 1, "configs": few, "device": "cpu"}
    local = calibrate(**plan, data=str(data), out=tmp_path / "local")
    with serving(data) as server:
        url = server.url.replace("http://", "http://user:secret@")
        found = calibrate(**plan, data=url, out=tmp_path / "url")
    timeless = [[{**row, "seconds": 0} for row in made["rows"]] for made in (local, found)]
    assert timeless[0] == timeless[1]
    assert len(timeless[0]) == 2
    assert "secret" not in (tmp_path / "url/calibration.json").read_text()


def test_an_experiment_measures_data_at_a_url(tmp_path, monkeypatch):
    data, recipe = dialogues(tmp_path, "train", "val")
    encoded(data, recipe)

    def trained(training, **_):
        training.export_folder.parent.mkdir(parents=True)
        shutil.copytree(resolve_pretrained("bundled"), training.export_folder)
        record = {"source": "", "seconds": 0, "resumed_from": None}
        (training.folder / TRAINED).write_text(json.dumps(record))

    monkeypatch.setattr(command, "run_training", trained)
    plan = {"name": "n", "claim": "c", "tasks": ["tqa"], "limit": 3, "speech_limit": 3}
    plan |= {"recipes": [recipe], "seeds": [1], "nelbo": False, "device": "cpu"}

    def results(location, out):
        ratio = "model.init_args.forward_process.init_args.tail_pad_ratio"
        at = {"data.init_args.data": str(location)}
        variants = {"a": Variant(set=at), "b": Variant(set={**at, ratio: 1.0})}
        return experiment(**plan, variants=variants, out=out)

    local = results(data, tmp_path / "local")
    with serving(data) as server:
        found = results(server.url, tmp_path / "url")
        (tmp_path / "other").mkdir()
        other = dialogues(tmp_path / "other", "val")[0]
        encoded(other, recipe)
        two = {"data.init_args.data": str(other)}
        variants = {
            "a": Variant(set={"data.init_args.data": server.url}),
            "b": Variant(set=two),
        }
        with pytest.raises(OmniError, match="wanted the same examples for all; use one folder"):
            experiment(**plan, variants=variants, out=tmp_path / "none")
    assert [row["mean"] for row in found["rows"]] == [row["mean"] for row in local["rows"]]
    assert found["rows"]


def test_a_stage_trained_on_a_url_is_evaluated_on_it(tmp_path):
    data, recipe = dialogues(tmp_path, "train", "test_iid")
    encoded(data, recipe)
    shutil.copytree(resolve_pretrained("bundled"), tmp_path / "run/export")
    stage = EvaluateStage(["test_iid"], limit=3, speech_limit=1, gallery=1, seed=1, tasks=["tqa"])
    logged = []
    with serving(data) as server:
        trainer = SimpleNamespace(
            datamodule=encoded(server.url, recipe),
            is_global_zero=True,
            default_root_dir=str(tmp_path / "run"),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            loggers=[SimpleNamespace(log_metrics=lambda values, step: logged.append(values))],
            global_step=1,
            fast_dev_run=False,
        )
        stage.on_fit_start(trainer, None)
        stage.on_fit_end(trainer, None)
    assert list(logged[0]) == ["eval/tqa_test_iid/exact"]
    results = json.loads((tmp_path / "run/eval/results.json").read_text())
    assert results["manifest_sha256"] == manifest_hash(data)


def test_recordings_at_a_url_are_those_of_the_folder(data):
    with serving(data) as server:
        url = parse_location(server.url)
        keys = draw_recording_keys(url, "test_iid", limit=3, seed=0)
        assert keys == draw_recording_keys(data, "test_iid", limit=3, seed=0)
        local, found = read_speech(data, set(keys)), read_speech(url, set(keys))
        assert len(read_samples(url / "tasks", "asr", "test_iid")) == 6
    assert [one.text for one in found.values()] == [one.text for one in local.values()]
    assert all(np.array_equal(found[k].wave, local[k].wave) for k in keys)


def test_the_scene_classifier_of_data_at_a_url_lies_in_the_cache(data, cache):
    with serving(data) as server:
        folder = classifier_folder(parse_location(server.url), num_steps=5)
    assert folder == cache / "scene_classifier" / classifier_folder(data, num_steps=5).name
