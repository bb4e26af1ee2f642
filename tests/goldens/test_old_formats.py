"""Files that the last version before the redesign wrote are read."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from record import FIXTURES, debug_request, load_model

from lightning_omni.cli import main
from lightning_omni.errors import OmniError
from lightning_omni.generation.config import from_plain, load_presets, to_plain
from lightning_omni.pretrained import FOLDER
from lightning_omni.recipe import read_recipe

RECIPE = FIXTURES / "recipes" / "debug" / "stage3.yaml"


def test_an_export_with_a_length_head_answers_and_says_once_that_it_is_not_used(caplog):
    with caplog.at_level(logging.INFO):
        model = load_model(FIXTURES / "stage3_export")
    assert caplog.text.count("no longer used") == 1
    assert model.generate("t2i", text=debug_request("t2i")["text"]).image is not None


def test_presets_under_their_old_name_are_those_of_today():
    old = load_presets(FIXTURES / "qualities" / "shipped")
    assert {p: {t: to_plain(c) for t, c in own.items()} for p, own in old.items()} == {
        p: {t: to_plain(c) for t, c in own.items()} for p, own in load_presets(FOLDER).items()
    }


def test_old_settings_are_read_or_named():
    plain = json.loads((FIXTURES / "qualities" / "handmade" / "qualities.json").read_text())
    assert from_plain(plain["balanced"]["tqa"]).history
    assert from_plain(plain["fast"]["asr"]).cache_interval == 2
    for preset, task, word in (
        ("fast", "t2i", "final_guidance_scale"),
        ("fast", "caption", "grow"),
        ("balanced", "sqa", "length"),
        ("balanced", "svqa", "wanted a number"),
    ):
        with pytest.raises(OmniError, match=word):
            from_plain(plain[preset][task])
    with pytest.raises(OmniError, match="token_editing"):
        from_plain({"sampler": plain["fast"]["vqa"]["sampler"]})


@pytest.mark.parametrize("path", sorted((FIXTURES / "recipes" / "debug").glob("*.yaml")), ids=str)
def test_classes_of_old_recipes_are_where_the_recipe_says_or_moved(path):
    text = json.dumps(read_recipe(path), default=str)
    for old in ("modules.precision", "nn.frames", "nn.lfq", "nn.seanet", "modules.muon"):
        assert f"lightning_omni.{old}." not in text


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")  # fewer callbacks here
def test_a_checkpoint_resumes_with_its_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prep-data", "--preset", "smoke", "--out", "data/smoke"]) == 0
    checkpoint = shutil.copy(FIXTURES / "stage3_step4.ckpt", "old.ckpt")
    tokenizers = [
        f"--data.{kind}={FIXTURES / 'stage3_export' / kind}"
        for kind in ("image_tokenizer", "speech_tokenizer")
    ]
    options = ["--trainer.callbacks", "null", "--trainer.limit_val_batches", "0"]
    run = ["fit", "--config", str(RECIPE), *tokenizers, *options]
    assert main([*run, "--ckpt_path", checkpoint]) == 0
    assert Path("runs/debug/stage3/export/model.safetensors").is_file()
