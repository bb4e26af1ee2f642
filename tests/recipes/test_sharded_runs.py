"""Recipes on two processes that share the weights: saved, resumed, and exported in two ways."""

import warnings
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from safetensors.torch import load_file
from several_processes import run_processes

from lightning_omni.cli import build_cli, main
from lightning_omni.modules.checkpoint_folder import is_checkpoint_folder
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.sharding import gather_weights

RECIPES = Path(__file__).parents[2] / "recipes"
LAST = Path("half/checkpoints/last.ckpt")
STRATEGY = ["--config", str(RECIPES / "strategy/fsdp2.yaml")]
pytestmark = pytest.mark.xdist_group("workplace")


def train(name, out, processes, *more):
    recipe = ["--config", str(RECIPES / "debug" / f"{name}.yaml"), *STRATEGY]
    place = ["--trainer.default_root_dir", str(out), "--trainer.enable_progress_bar", "false"]
    defaults = ["--run_defaults", "[checkpoints,export]", "--trainer.logger", "false"]
    defaults += ["--trainer.enable_model_summary", "false"]
    devices = ["--trainer.devices", str(processes), "--trainer.accelerator", "cpu"]
    if name == "stage3":
        average = (
            '[{"class_path": "lightning_omni.callbacks.ema.EMA", "init_args": {"decay": 0.5}}]'
        )
        defaults += ["--trainer.callbacks", average, "--trainer.precision", "32-true"]
    else:
        defaults += ["--trainer.callbacks", "null"]

    def work(rank):
        for kind in (PossibleUserWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        torch.manual_seed(rank)
        return main(["fit", *recipe, *defaults, *place, *devices, *more])

    run_processes(work, processes, Path.cwd())


@pytest.fixture
def starts(monkeypatch):
    """Keep what is on the meta device before the weights are shared out, and all that begin so."""
    share = MaskedDiffusionModule.configure_model

    def configure_model(module):
        meta = [name for name, p in module.backbone.named_parameters() if p.is_meta]
        share(module)
        whole = gather_weights(module.backbone)
        if module.global_rank == 0:
            torch.save((meta, whole), "start.pt")

    monkeypatch.setattr(MaskedDiffusionModule, "configure_model", configure_model)


def weights(folder):
    return load_file(f"{folder}/model.safetensors")


def check_run(name, stop, end):
    train(name, "whole", 2, "--trainer.max_steps", str(end))
    train(name, "half", 2, "--trainer.max_steps", str(stop))
    assert is_checkpoint_folder(LAST)
    assert main(["export", "--model", str(LAST), "--format", "safetensors", "--output", "out"]) == 0
    torch.testing.assert_close(weights("out"), weights("half/export"), rtol=0, atol=0)
    more = ["--trainer.max_steps", str(end), "--ckpt_path", str(LAST)]
    train(name, "half", 2, *more)
    torch.testing.assert_close(weights("half/export"), weights("whole/export"), rtol=0, atol=0)


STEPS = {"stage3": (3, 6)}
MORE_STEPS = {
    "image_tokenizer": (6, 12),
    "speech_tokenizer": (3, 9),
    "speech_tokenizer_seanet": (6, 12),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_sharded_run_is_resumed_and_exported(beside, starts, name):
    beside("image_tokenizer", "speech_tokenizer")
    check_run(name, *STEPS[name])
    meta, found = torch.load("start.pt")
    recipe = ["--config", str(RECIPES / "debug" / f"{name}.yaml")]
    whole = build_cli(recipe, run=False, with_trainer=False).model.backbone
    assert set(meta) == {name for name, _ in whole.named_parameters()}
    for key, value in whole.named_parameters():
        assert torch.equal(found[key], value), key


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_STEPS)
def test_tokenizers_too(beside, name):
    beside()
    check_run(name, *MORE_STEPS[name])
