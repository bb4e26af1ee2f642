"""What a tokenizer's plan counts is what a process keeps."""

import os
import subprocess
import sys

import pytest
import torch

from lightning_omni.studies.memory_plan.codec import plan_tokenizer
from lightning_omni.studies.memory_plan.settings import PlanOptions, TrainerSettings

WORK = """
import resource, sys, torch
from test_codec_peak import made
torch.set_num_threads(1)
module, data = made(int(sys.argv[1]))
images = torch.rand(data.batch_size, 3, data.image_size, data.image_size)
quantized = module.tokenizer.quantize(images)
rebuilt = module.tokenizer.reconstruct(quantized.latents)
terms = module._loss_terms(images, rebuilt, quantized)
torch.stack(list(terms.values())).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def made(batch):
    """A module without a critic, with its data; nothing is read."""
    from pathlib import Path

    from lightning_omni.cli import build_cli

    recipe = Path(__file__).parents[3] / "recipes/image_tokenizer.yaml"
    cli = build_cli(["--config", str(recipe)], run=False, with_trainer=False)
    cli.datamodule.batch_size = batch
    return cli.model, cli.datamodule


def measured_gb(batch):
    here = os.path.dirname(__file__)
    root = os.path.abspath(os.path.join(here, "../../.."))
    env = os.environ | {
        "PYTHONPATH": f"{root}:{here}",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", WORK, str(batch)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def planned_gb(batch):
    with torch.device("meta"):
        module, data = made(batch)
    trainer = TrainerSettings(1, 1, -1, torch.float32, torch.float32, False, False)
    return plan_tokenizer(module, data, trainer, PlanOptions())["memory_gb"]["single"][
        "activations"
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak in Linux's unit")
def test_the_predicted_activations_of_a_tokenizer_are_those_of_a_real_step():
    few, many = 16, 144
    planned = planned_gb(many) - planned_gb(few)
    assert measured_gb(many) - measured_gb(few) == pytest.approx(planned, rel=0.15)
