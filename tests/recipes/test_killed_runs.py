"""Every recipe on two processes: killed, resumed to the end of an unbroken run, and exported."""

import json
import os
import signal
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from lightning.fabric.utilities.warnings import PossibleUserWarning
from safetensors.torch import load_file
from several_processes import run_processes, run_until_one_is_killed

from lightning_omni.callbacks.run_record import RECORD, read_run_record
from lightning_omni.cli import build_cli, main
from lightning_omni.modules.image_tokenizer import ImageTokenizerModule
from lightning_omni.modules.masked_diffusion import MaskedDiffusionModule
from lightning_omni.modules.sharding import gather_weights
from lightning_omni.modules.speech_tokenizer import SpeechTokenizerModule

RECIPES = Path(__file__).parents[2] / "recipes"
LAST = "killed/checkpoints/last.ckpt"
STEPS = {  # at which a process is killed, and of an unbroken run; critics' updates count
    "image_tokenizer": (6, 12),
    "speech_tokenizer": (4, 7),
    "speech_tokenizer_seanet": (6, 10),
}
OF_THE_JOINT_MODEL = (2, 4)
pytestmark = pytest.mark.xdist_group("workplace")


@pytest.fixture
def recipe(beside, tmp_path):
    """Make the options of a recipe at debug width, whose stage before is the debug recipe's."""

    def make(name):
        beside("image_tokenizer", "speech_tokenizer", "stage3")
        debug = RECIPES / "debug" / f"{name}.yaml"
        if debug.is_file():
            callbacks = [] if "tokenizer" in name else [AVERAGE]
            return ["--config", str(debug), "--trainer.callbacks", json.dumps(callbacks)]
        width = yaml.safe_load((RECIPES / "base/debug.yaml").read_text())
        model = width["model"]["init_args"]
        del width["base"], model["optimizer"], width["trainer"]["callbacks"]
        model["backbone"] = str(RECIPES / "model/debug.yaml")
        if name != "full_stage1":
            model["init_from"] = "runs/debug/stage3/export"
        width["trainer"]["callbacks"] = [AVERAGE]
        (tmp_path / "width.yaml").write_text(yaml.safe_dump(width))
        stage = RECIPES / f"{name.removeprefix('full_')}.yaml"
        return ["--config", str(stage), "--config", str(tmp_path / "width.yaml")]

    return make


AVERAGE = {"class_path": "lightning_omni.callbacks.ema.EMA", "init_args": {"decay": 0.5}}


def fit(rank, *, args, out, die_at=None):
    """One process of a run; the second one dies at the beginning of a step."""
    for kind in (PossibleUserWarning, FutureWarning, UserWarning):
        warnings.simplefilter("ignore", kind)
    torch.manual_seed(rank)
    if die_at is not None and rank == 1:
        for module in (ImageTokenizerModule, SpeechTokenizerModule, MaskedDiffusionModule):
            module.training_step = dying(module.training_step, die_at)
    place = ["--trainer.default_root_dir", out, "--trainer.logger", "false"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    defaults = ["--run_defaults", "[checkpoints,export,record]", "--trainer.accelerator", "cpu"]
    return main(["fit", *args, *defaults, *place, *quiet, "--trainer.devices", "2"])


def dying(step, die_at):
    def training_step(module, *args):
        if module.trainer.global_step >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(module, *args)

    return training_step


def weights(folder):
    return load_file(f"{folder}/model.safetensors")


def same(one, other):
    """Whether two exports have the same weights, bit for bit, and the same config."""
    one, other = Path(one), Path(other)
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    return (one / "config.json").read_bytes() == (other / "config.json").read_bytes()


def check_run(args, strategy, stop, end):
    args = [*args, "--config", str(RECIPES / f"strategy/{strategy}.yaml")]
    args += ["--trainer.max_steps", str(end)]
    here = Path.cwd()
    run_processes(partial(fit, args=args, out="whole"), 2, here)
    run_until_one_is_killed(partial(fit, args=args, out="killed", die_at=stop), 2, here)
    assert not Path("killed/export").exists()
    assert Path(LAST).is_dir() == (strategy == "fsdp2")
    more = [*args, "--ckpt_path", LAST]
    run_processes(partial(fit, args=more, out="killed"), 2, here)
    assert same("killed/export", "whole/export")
    assert main(["export", "--model", LAST, "--format", "safetensors", "--output", "alone"]) == 0
    assert same("alone", "whole/export")
    check_records(strategy, end)


def check_records(strategy, end):
    """Each start has an entry, of both processes; the second begins where the first one was."""
    entries = read_run_record(Path("whole") / RECORD), read_run_record(Path("killed") / RECORD)
    (whole,), (first, second) = entries
    assert (whole["first_step"], whole["last_step"]) == (0, end)
    assert 0 == first["first_step"] < first["last_step"] == second["first_step"]
    assert second["last_step"] == end
    names = {"ddp": "DDPStrategy", "fsdp2": "ShardedStrategy"}
    for entry in (whole, first, second):
        assert (entry["device"], entry["processes"]) == ("cpu", 2)
        assert entry["strategy"] == names[strategy]
        assert entry["precision"]


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


def test_a_sharded_run_begins_like_one_process_and_goes_on_after_a_kill(recipe, starts):
    args = recipe("stage3")
    check_run(args, "fsdp2", *OF_THE_JOINT_MODEL)
    meta, found = torch.load("start.pt")
    whole = build_cli(args, run=False, with_trainer=False).model.backbone
    assert set(meta) == {name for name, _ in whole.named_parameters()}
    for key, value in whole.named_parameters():
        assert torch.equal(found[key], value), key


def test_replicas_go_on_after_a_kill(recipe):
    check_run(recipe("speech_tokenizer"), "ddp", *STEPS["speech_tokenizer"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    "name",
    [
        *STEPS,
        "continuous_speech",
        "stage3",
        "full_stage1",
        "full_stage2",
        "full_stage3",
        "full_finetune",
    ],
)
def test_all_recipes_go_on_after_a_kill(recipe, name, strategy):
    check_run(recipe(name), strategy, *STEPS.get(name, OF_THE_JOINT_MODEL))
