"""Adapters on a model that a recipe trained before, through the real command line."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_omni.cli import main
from lightning_omni.nn.adapters import TARGET_MODULES

pytestmark = pytest.mark.xdist_group("workplace")
RECIPE = str(Path(__file__).parents[2] / "recipes" / "debug" / "stage3.yaml")
RUN = Path("runs/debug/stage3")


@pytest.fixture
def before(workplace, beside):
    """The model trained before; the current folder is a new one with the same data."""
    beside("image_tokenizer", "speech_tokenizer")
    return workplace / RUN / "export"


def fit(before, rank=2, *more):
    lora = {
        "class_path": "lightning_omni.nn.adapters.Lora",
        "init_args": {"rank": rank, "alpha": 4},
    }
    args = ["--model.lora", json.dumps(lora), "--model.init_from", str(before)]
    return main(["fit", "--config", RECIPE, *args, *more])


def test_a_stage_trains_adapters_alone_resumes_and_exports_plain_weights(before):
    pytest.importorskip("peft")
    assert fit(before, 2, "--trainer.max_steps", "2") == 0
    resumed = ["--ckpt_path", str(RUN / "checkpoints/last.ckpt"), "--trainer.max_steps", "4"]
    assert fit(before, 2, *resumed) == 0
    first = load_file(before / "model.safetensors")
    after = load_file(RUN / "export" / "model.safetensors")
    assert after.keys() == first.keys()
    # the recipe averages all weights over time, which rounds those that do not change
    changed = {n for n in first if not torch.allclose(first[n], after[n], atol=1e-6, rtol=0)}
    assert {name.split(".")[-2] for name in changed} == set(TARGET_MODULES)
    said = [line for line in (before / "README.md").read_text().splitlines() if " M param" in line]
    assert said[0] in (RUN / "export" / "README.md").read_text()
    answer = ["--task", "tqa", "--text", "x", "--model", str(RUN / "export")]
    assert main(["generate", *answer, "--out", "answer"]) == 0


def test_wrong_settings_are_one_sentence(before, capsys):
    pytest.importorskip("peft")
    assert fit(before, 0) == 2
    assert "lora.rank is 0, wanted at least 1" in capsys.readouterr().err


def test_without_the_package_the_extra_is_named(before, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert fit(before) == 2
    assert "run pip install 'lightning_omni[peft]'" in capsys.readouterr().err
