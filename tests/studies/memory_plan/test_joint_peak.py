"""What a plan says a stage needs is what a process holds at the peak of its steps.

Of the recipes of one GPU's day two blocks of full width are trained, on the CPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_omni.cli import build_cli
from lightning_omni.studies.memory_plan.device_load import DeviceLoad
from lightning_omni.studies.memory_plan.memory import estimate_device_memory
from lightning_omni.studies.memory_plan.plan import find_optimizer_kind

RECIPES = Path(__file__).parents[3] / "recipes"
TWO = ["--model.backbone.init_args.num_layers", "2"]
ROWS = ["--data.rows", "16", "--data.row_length", "512"]
LONG = ["--data.rows", "2", "--data.row_length", "1024"]
QWEN3 = ["--model.backbone", str(RECIPES / "model/qwen3_0.6b.yaml")]
SELECTIVE = ["--model.recompute_activations", "selective"]
CASES = {
    "debug": ("debug/stage3.yaml", ROWS),
    "mini": ("stage3.yaml", ROWS),
    "mini, recomputed": ("stage3.yaml", [*ROWS, "--model.recompute_activations", "full"]),
    "one GPU": ("one_gpu/stage3.yaml", [*TWO, *LONG]),
    "one GPU, selective": ("one_gpu/stage3.yaml", [*TWO, *LONG, *SELECTIVE]),
    "one GPU from nothing": ("one_gpu/stage1_from_nothing.yaml", [*TWO, *LONG]),
    "one GPU, Qwen3": ("one_gpu/stage3.yaml", [*QWEN3, *TWO, *LONG]),
    "one GPU, adapters": ("one_gpu/finetune.yaml", [*TWO, *LONG]),
}
LENGTHS, MASKED = (192, 320), 0.25
"""Tokens of the samples in turn, and the share of them with a loss."""
SEGMENT = sum(n * n for n in LENGTHS) // sum(LENGTHS)
"""Tokens of the equal samples with as many pairs."""
WORK = """
import json, sys
import lightning as L, torch
from test_joint_peak import built, packed_batch, status
torch.set_num_threads(1)
autocast, *args = sys.argv[1:]
module, data = built(args)
module.setup = lambda stage: None  # no tokenizers and weights are read
batch = packed_batch(data.rows, data.row_length, module.vocab)
held = []

class Meter(L.Callback):
    def on_train_batch_start(self, *_):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts anew
        gradients = sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)
        self.before = status("VmRSS") - gradients

    def on_train_batch_end(self, trainer, *_):
        states = trainer.optimizers[0].state.values()
        kept = [p for p in module.parameters()]
        kept += [x for state in states for x in state.values() if torch.is_tensor(x)]
        # these are there before a step, beside the gradients of the last one
        held.append((sum(x.nbytes for x in kept), status("VmHWM") - self.before))

trainer = L.Trainer(max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False, callbacks=[Meter()],
                    precision="bf16-mixed" if autocast == "bfloat16" else "32-true",
                    log_every_n_steps=1000)
trainer.fit(module, torch.utils.data.DataLoader([batch] * 3, batch_size=None))
print(json.dumps(held))
"""


def status(name):
    """An entry of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def built(args):
    """The module and the data of a recipe; nothing is read."""
    cli = build_cli(args, run=False, with_trainer=False)
    return cli.model, cli.datamodule


def packed_batch(rows, row_length, vocab):
    """Segments whose last quarter is masked, as if by a forward process."""
    from lightning_omni.diffusion.forward_process import mask_tokens
    from lightning_omni.types import Batch

    tokens, rng = rows * row_length, torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS).repeat(tokens // sum(LENGTHS))
    positions = torch.cat([torch.arange(n) for n in lengths])
    is_answer = positions >= lengths.repeat_interleave(lengths) * (1 - MASKED)
    text = vocab.span("text").size
    batch = Batch(
        ids=torch.randint(0, text, (tokens,), generator=rng),
        position_ids=torch.stack((positions, positions * 0, positions * 0), dim=1),
        segment_ids=torch.arange(len(lengths)).repeat_interleave(lengths),
        positions=positions,
        maskable=is_answer,
        is_tail_pad=torch.zeros_like(is_answer),
        is_answer=is_answer,
        answer_positions=is_answer.nonzero().squeeze(1),
        modality=torch.where(is_answer, 0, -1),
        tasks=torch.zeros(len(lengths), dtype=torch.long),
        sample_index=torch.arange(len(lengths)),
        cu_seqlens=torch.tensor([0, *lengths.tolist()]).cumsum(0).int(),
        lengths=tuple(lengths.tolist()),
        host_tasks=(0,) * len(lengths),
        num_maskable=int(is_answer.sum()),
        num_rows=rows,
        codebooks=1,
        continuous=None,
    )
    noisy = mask_tokens(batch, is_answer, mask_token_id=vocab.mask_token_id)
    return batch.__class__(**{**{n: getattr(batch, n) for n in batch.__slots__}, "noisy": noisy})


def planned(args, dtype):
    """The planned memory of the same run, in bytes."""
    with torch.device("meta"):
        module, data = built(args)
    load = DeviceLoad(
        data.rows * data.row_length,
        SEGMENT,
        MASKED,
        products=getattr(torch, dtype),
        device="cpu",
        recomputation=module.backbone.recomputation,
        optimizer=find_optimizer_kind(module),
    )
    return estimate_device_memory(module.backbone, load)


def measured(args, dtype):
    """Weights and optimizer states, and what a step holds at its peak beside them, in bytes."""
    env = os.environ | {
        "PYTHONPATH": f"{RECIPES.parent}:{Path(__file__).parent}",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", WORK, dtype, *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])[-1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_a_stage_s_plan_is_within_a_tenth_of_the_measured_peak(case, dtype):
    recipe, changes = CASES[case]
    args = ["--config", str(RECIPES / recipe), *changes]
    plan, (states, held) = planned(args, dtype), measured(args, dtype)
    assert plan.weights + plan.optimizer == pytest.approx(states, rel=0.01)
    assert plan.peak == pytest.approx(states + held, rel=0.1)
