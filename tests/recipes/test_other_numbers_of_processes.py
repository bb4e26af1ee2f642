"""A sharded run of two processes, critics included, is resumed whole by one and by four."""

import json
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from several_processes import run_processes
from test_killed_runs import AVERAGE, RECIPES
from torch.distributed.tensor import DTensor

from lightning_omni.callbacks.ema import EMA
from lightning_omni.cli import build_cli
from lightning_omni.modules.sharding import reshard

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workplace")]
STEPS = {"image_tokenizer": 8, "speech_tokenizer": 5, "speech_tokenizer_seanet": 8, "stage3": 3}
CRITICS = ("image_tokenizer", "speech_tokenizer_seanet")


def whole(value):
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def fit(rank, *, args, processes):
    """Train until the recipe's last step; return all that training has to go on from."""
    warnings.simplefilter("ignore", UserWarning)
    EMA.on_train_end = lambda *_: None  # keep the weights beside their average
    torch.manual_seed(rank)
    cli = build_cli(["fit", *args, "--trainer.devices", str(processes)])
    module, trainer = cli.model, cli.trainer
    reshard(module)
    averages = [c.averaged for c in trainer.callbacks if isinstance(c, EMA)]
    return {
        "weights": {name: whole(value) for name, value in module.state_dict().items()},
        "optimizers": [
            {n: {k: whole(v) for k, v in s.items()} for n, s in enumerate(o.state.values())}
            for o in trainer.optimizers
        ],
        "averages": [{name: whole(v) for name, v in each.items()} for each in averages],
        "is_shared": any(isinstance(p, DTensor) for p in module.parameters()),
        "step": trainer.global_step,
        "updates": getattr(module, "updates", None),
        "noise": module.rng.get_state() if hasattr(module, "rng") else None,
    }


@pytest.mark.parametrize("name", STEPS)
def test_one_and_four_processes_have_the_weights_and_states_of_two(beside, name):
    beside("image_tokenizer", "speech_tokenizer")
    callbacks = [] if "tokenizer" in name else [AVERAGE]
    recipes = (f"debug/{name}", "strategy/fsdp2")
    args = [arg for recipe in recipes for arg in ("--config", str(RECIPES / f"{recipe}.yaml"))]
    args += ["--trainer.max_steps", str(STEPS[name]), "--trainer.default_root_dir", "run"]
    args += ["--trainer.callbacks", json.dumps(callbacks), "--run_defaults", "[checkpoints]"]
    args += ["--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    saved, other = run_processes(partial(fit, args=args, processes=2), 2, Path.cwd())
    assert saved["is_shared"]
    assert len(saved["optimizers"]) == (2 if name in CRITICS else 1)
    assert all(saved["optimizers"])
    assert len(saved["averages"]) == len(callbacks)
    torch.testing.assert_close(other, saved, rtol=0, atol=0)
    args += ["--ckpt_path", "run/checkpoints/last.ckpt"]
    for processes in (1, 4):
        work = partial(fit, args=args, processes=processes)
        for found in run_processes(work, processes, Path.cwd()):
            assert found["is_shared"]
            torch.testing.assert_close(found, saved, rtol=0, atol=0)
