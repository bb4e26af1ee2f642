"""`fit --verify_topology`: a run on several devices against the same run on one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_omni.argument_checks import check_within
from lightning_omni.callbacks.batch_records import read_records
from lightning_omni.errors import OmniError
from lightning_omni.modules.tokenizer_training import TokenizerTraining

FIRST_STEP, LATER_STEPS = 1e-5, 1e-3
"""Largest relative differences of losses in float32."""
_ONE_DEVICE = ("--trainer.strategy=auto", "--trainer.devices=1")
Records = Mapping[int, Mapping[str, Any]]


def verify_topology(
    args: Sequence[str], trainer: Mapping[str, Any], model: type, steps: int
) -> bool:
    """Train steps on one device and as the recipe says, and print both.

    Both see the same batches: what n devices see at once, one sees one after the other and
    accumulates, or, if a tokenizer is trained, as one batch. Nothing is kept of either.

    Args:
        args: Arguments of `fit`.
        trainer: Trainer's section of the recipe.
        model: Class of the recipe's module.
        steps: Number of steps.

    Returns:
        Whether batches and masks are equal and losses agree.

    Raises:
        OmniError: If the recipe has one device, or a run fails.
    """
    check_within("verify_topology", steps, 1)
    devices = count_devices(trainer.get("devices"), str(trainer.get("accelerator")))
    if devices < 2:
        raise OmniError("a run on one device has no other layout; give --trainer.devices 2 or more")
    accumulate = int(trainer.get("accumulate_grad_batches") or 1)
    found = []
    joins, lasts = issubclass(model, TokenizerTraining), {"max_steps": steps}
    if joins:  # steps count the updates of a critic, too
        lasts = {"max_steps": 2 * steps, "max_epochs": 1, "limit_train_batches": steps}
    with tempfile.TemporaryDirectory() as folder:
        accumulates = f"--trainer.accumulate_grad_batches={accumulate * devices}"
        layouts = {
            "one": ([*_ONE_DEVICE, *([] if joins else [accumulates])], devices if joins else 1),
            "several": ([f"--trainer.devices={devices}"], 1),
        }
        for name, (layout, joined) in layouts.items():
            _train_in_process(Path(folder) / name, [*args, *layout], lasts, joined=joined)
            found.append(read_records(Path(folder) / name))
    table, agrees = compare_runs(*found, batches_per_step=accumulate * devices)
    sys.stdout.write(f"1 device against {devices}, float32\n{table}\n")
    return agrees


def count_devices(devices: Any, accelerator: str) -> int:
    """Return the number of devices that a trainer's setting stands for."""
    if isinstance(devices, list):
        return len(devices)
    if str(devices) in ("auto", "-1", "None"):
        return (
            torch.cuda.device_count() if accelerator != "cpu" and torch.cuda.is_available() else 1
        )
    return int(devices)


def compare_runs(one: Records, several: Records, *, batches_per_step: int) -> tuple[str, bool]:
    """Return a table of both runs by step, and whether they agree.

    Args:
        one: Records of the run on one device by number of the batch.
        several: The same of the other run.
        batches_per_step: Batches that one update sees.
    """
    agrees = bool(one) and one.keys() == several.keys()
    numbers = sorted(one.keys() & several.keys())
    parts = [key for key in (one[numbers[0]] if numbers else ()) if key != "loss"]
    lines = ["  ".join(["step  loss (one)  loss (several)  difference", *parts])]
    for start in range(0, len(numbers), batches_per_step):
        step = start // batches_per_step + 1
        group = numbers[start : start + batches_per_step]
        losses = [sum(run[n]["loss"] for n in group) / len(group) for run in (one, several)]
        difference = abs(losses[1] - losses[0]) / max(abs(losses[0]), 1e-12)
        same = [all(one[n][key] == several[n][key] for n in group) for key in parts]
        is_near = difference <= (FIRST_STEP if step == 1 else LATER_STEPS)
        agrees = agrees and is_near and all(same)
        words = "".join(f"  {'equal' if is_same else 'DIFFER':<6}" for is_same in same)
        mark = "" if is_near else "  TOO LARGE"
        numerals = f"{losses[0]:>10.6f}  {losses[1]:>14.6f}  {difference:>10.1e}"
        lines.append(f"{step:>4}  {numerals}{words}{mark}")
    lines.append("the layouts agree" if agrees else "the layouts DIFFER")
    return "\n".join(lines), agrees


def _train_in_process(
    folder: Path, args: Sequence[str], lasts: Mapping[str, int], *, joined: int
) -> None:
    """Train in a process of its own, which starts those of further devices."""
    path = "lightning_omni.callbacks.batch_records.BatchRecords"
    records = [{"class_path": path, "init_args": {"folder": str(folder), "joined": joined}}]
    settings = {
        "callbacks": json.dumps(records),
        "logger": "false",
        "enable_checkpointing": "false",
        "enable_progress_bar": "false",
        "enable_model_summary": "false",
        "limit_val_batches": 0,
        **lasts,
        "num_nodes": 1,
        "precision": "32-true",
        "default_root_dir": folder,
    }
    options = [f"--trainer.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "lightning_omni", *args, *options, "--run_defaults=[]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = next(
            (line for line in done.stderr.splitlines() if line.startswith("error: ")),
            done.stderr[-500:],
        )
        raise OmniError(f"the run of {folder.name} device failed: {told.removeprefix('error: ')}")
