"""Evaluation reads data at URLs as it reads local folders."""

import json

import numpy as np
import pytest
from servers import serving
from test_commands import sound, write_corpus

from data_prep.prepare_corpus import prepare_corpus
from lightning_omni.data.shards import read_samples
from lightning_omni.data.storage.locations import parse_location
from lightning_omni.errors import OmniError
from lightning_omni.evaluation.command import evaluate
from lightning_omni.evaluation.emojiworld.train_classifier import classifier_folder
from lightning_omni.evaluation.original_media import read_speech
from lightning_omni.evaluation.tokenizers import draw_recording_keys
from lightning_omni.generation.config import GenerationConfig

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
