"""The GPU check runs small on a CPU, where it pretends a GPU; a mistake that it looks for is found."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "run.py"
ROOT = RUN.parents[2]
RIGHT = ("devices", "attention", "step", "sharding", "average", "generation", "sampling")
FAST = ("environment", "syncs", "compile", "speed_100m", "speed_7b", "encode", "update")


def run(out, *args):
    command = [
        sys.executable,
        str(RUN),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--tiny",
        "--budget",
        "850",
        *args,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads((out / "gpu_check.json").read_text())["checks"]
    return done, {name: check["status"] for name, check in found.items()}


def test_the_check_of_a_gpu_passes_on_a_pretended_one(tmp_path):
    done, status = run(tmp_path, "--only", ",".join((*RIGHT, *FAST)))
    assert done.returncode == 0, done.stdout
    assert not {n: s for n, s in status.items() if s != "pass"}, done.stdout
    assert set(status) == {*RIGHT, *FAST}
    checks = json.loads((tmp_path / "gpu_check.json").read_text())["checks"]
    numbers = checks["devices"]["numbers"]
    steps = {n: case for n, case in numbers.items() if n.endswith("bf16")}  # by varlen
    assert "as in recipes/stage3, bf16" in steps
    for name, case in steps.items():
        assert case["blocking"] == 0, (name, case["where"])
    answers = numbers["answers"]
    for name, answer in answers.items():  # two in a step, some for layouts, codes and the picture
        assert answer["blocking"] <= 2 * answer["forwards"] + 4, (name, answer["where"])


def test_the_names_that_the_checks_need_exist():
    needed = {
        path
        for file in RUN.parent.glob("*.py")
        for path in re.findall(r"need\(\s*\"([\w.]+:\w+)\"", file.read_text())
    }
    assert len(needed) > 20
    for path in sorted(needed):
        module, _, name = path.partition(":")
        assert hasattr(importlib.import_module(module), name), path


@pytest.mark.slow
def test_the_checks_of_training_pass_on_a_cpu(tmp_path):
    done, status = run(tmp_path, "--only", "cli,processes")
    assert status["cli"] == status["processes"] == "pass", done.stdout


MISTAKES = {
    "a tensor on the CPU": "x + torch.ones(3)",
    "an index on the CPU": "x[torch.tensor([0, 1])]",
    "a wait for a number": "x.sum().item()",
    "a wait for a shape": "x.nonzero()",
}
RIGHT_LINES = ["x + 1.0", "x * x.sum()"]
PROGRAM = """
import sys, torch
sys.path.insert(0, {folder!r})
from pretended_gpu import pretend
gpu = pretend()
for line in {lines!r}:
    mode = gpu.Mode()
    with mode:
        x = gpu.Tensor(torch.rand(3))
        mode.syncs.clear()
        exec(line)
    print(len(mode.wrong) + len(mode.syncs))
"""


def test_a_pretended_gpu_notes_wrong_devices_and_waits():
    program = PROGRAM.format(folder=str(RUN.parent), lines=[*MISTAKES.values(), *RIGHT_LINES])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert list(map(int, done.stdout.split())) == [1] * len(MISTAKES) + [0] * len(RIGHT_LINES)
