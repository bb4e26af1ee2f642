"""What a tokenizer's plan says an update holds is what a process holds at its peak."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_omni.cli import build_cli
from lightning_omni.studies.memory_plan.live_memory import LiveMemory
from lightning_omni.studies.memory_plan.settings import PlanOptions, TrainerSettings
from lightning_omni.studies.memory_plan.tokenizer_plan import plan_tokenizer

RECIPES = Path(__file__).parents[3] / "recipes"
WITH_CRITIC = ["--model.adversarial_start", "0"]
QUANTIZED = ["--model.continuous_steps", "1", "--model.kmeans_vectors"]
CASES = {
    "debug image": ("debug/image_tokenizer.yaml", 32, WITH_CRITIC),
    "debug speech": ("debug/speech_tokenizer.yaml", 16, [*QUANTIZED, "64"]),
    "image": ("image_tokenizer.yaml", 48, []),
    "speech": ("speech_tokenizer.yaml", 24, [*QUANTIZED, "600"]),
}
WORK = """
import json, sys
import lightning as L, torch
from test_codec_peak import made
torch.set_num_threads(1)
module, data = made(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
n = data.batch_size
shape = (n, 3, data.image_size, data.image_size) if hasattr(data, "image_size") else (n, data.crop)
rng = torch.Generator().manual_seed(0)
update, held = module._update, []

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def measured(batch):
    kept = sum(p.grad.nbytes for p in module.parameters() if p.grad is not None) + batch.nbytes
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = status("VmRSS")
    update(batch)
    held.append(status("VmHWM") - before + kept)

module._update = measured
batches = [(torch.rand(shape, generator=rng) * 2 - 1) * 0.3 for _ in range(5)]
trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False)
trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
print(json.dumps(held[2:]))
"""


def made(recipe, batch, changes=()):
    """A module and its data; nothing is read."""
    args = ["--config", str(RECIPES / recipe), "--data.batch_size", str(batch), *changes]
    cli = build_cli(args, run=False, with_trainer=False)
    return cli.model, cli.datamodule


def planned(recipe, batch, changes=()):
    with torch.device("meta"):
        module, data = made(recipe, batch, changes)
    trainer = TrainerSettings(1, 1, -1, torch.float32, torch.float32, False, False)
    memory = plan_tokenizer(module, data, trainer, PlanOptions())["memory_gb"]["single"]
    return 1e9 * (memory["activations"] + memory["gradients"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resets and reads the peak as Linux has it")
@pytest.mark.parametrize("case", CASES)
def test_an_update_holds_what_was_planned(case):
    recipe, batch, changes = CASES[case]
    here = os.path.dirname(__file__)
    env = os.environ | {
        "PYTHONPATH": f"{RECIPES.parent}:{here}",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", WORK, recipe, str(batch), *changes]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    held = max(json.loads(done.stdout.splitlines()[-1]))
    assert planned(recipe, batch, changes) == pytest.approx(held, rel=0.1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_memory_is_followed_until_it_is_freed(device):
    weight = nn.Parameter(torch.zeros(100, 100, device=device))
    memory = LiveMemory([weight])
    with memory:
        first = torch.ones(1000, 100, device=device)  # 400 kB
        second = first + 1
        first.mul_(2)
        view = second[:10]
        assert (memory.now, memory.peak) == (800_000, 800_000)
        del first
        assert memory.now == 400_000
        del second
        assert memory.now == 400_000, "a view keeps all of it"
        del view
        assert memory.now == 0
        (torch.ones(10, 100, device=device) @ weight).sum().backward()
        assert memory.now == weight.grad.nbytes == 40_000
    assert memory.peak == 800_000


@pytest.mark.parametrize("name", ["image", "speech"])
def test_what_is_held_grows_with_the_batch_and_counts_more_than_gradients(name):
    recipe, _, changes = CASES[f"debug {name}"]
    few, many = (planned(recipe, batch, changes) for batch in (2, 8))
    assert 3.5 < many / few < 4.1  # when small tensors are freed differs by a percent
