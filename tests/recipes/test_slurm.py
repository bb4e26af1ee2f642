"""The Slurm script reaches torchrun on every node; a job that was stopped goes on when requeued."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from several_processes import free_port, run_processes
from test_killed_runs import AVERAGE, LAST, fit, same

from lightning_omni.modules.checkpoint_folder import is_checkpoint_folder

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPT = RECIPES / "cluster/slurm.sh"
STUBS = {
    "scontrol": 'echo "$@" >> scontrol.log; printf "node07\\n"; sleep 0.1; printf "node08\\n"',
    "srun": 'shift; for n in $(seq "$SLURM_NNODES"); do "$@"; done',
    "torchrun": 'printf "%s\\n" "$*" "threads $OMP_NUM_THREADS" >> torchrun.log',
}


def write_stubs(folder, stubs):
    for name, script in stubs.items():
        stub = folder / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/bash\n{script}\n")
        stub.chmod(0o755)


def submit(folder):
    write_stubs(folder, STUBS)
    job = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32"}
    job |= {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node[07-08]"}
    environment = {**os.environ, **job, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), "recipe.yaml", "runs/one"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    log = folder / "torchrun.log"
    lines = log.read_text().splitlines()
    log.unlink()
    return lines


def test_each_node_starts_its_processes_and_a_requeued_job_is_resumed(tmp_path):
    lines = submit(tmp_path)
    assert lines[::2] == [lines[0]] * 2
    assert lines[1::2] == ["threads 8"] * 2
    assert (tmp_path / "scontrol.log").read_text() == "show hostnames node[07-08]\n"
    wanted = (
        "--nnodes 2 --nproc_per_node 4 --signals_to_handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 "
    )
    wanted += "--rdzv_id 17 --rdzv_backend c10d "
    assert lines[0].startswith(f"{wanted}--rdzv_endpoint node07:29500 -m lightning_omni fit ")
    assert "--trainer.num_nodes 2 --trainer.devices 4" in lines[0]
    assert lines[0].endswith("--trainer.default_root_dir runs/one --ckpt_path last")
    assert submit(tmp_path) == lines


HANGS = """
mkdir -p runs/one/checkpoints
eval "$SAVES"
[ -z "$HUNG" ] || touch runs/one/hung-rank0.txt
exit $CODE
"""
KEPT = "runs/one/checkpoints"
PARTIAL = f"{KEPT}/.last.ckpt.partial"
SAVES = {
    "file": f"touch {KEPT}/last.ckpt",
    "folder": f"mkdir -p {KEPT}/last.ckpt; touch {KEPT}/last.ckpt/SHA256SUMS",
}
SWEEPS = {
    "unfinished file": f"touch {PARTIAL}; rm {PARTIAL}",
    "killed file": f"touch {PARTIAL}",
    "killed folder": f"mkdir -p {PARTIAL}; touch {PARTIAL}/SHA256SUMS",
    "checksum of no file": f"touch {KEPT}/last.ckpt.sha256",
}
"""What a job does to its checkpoints that is no new one."""


def end_job(folder, code, *, hung=False, saves=""):
    """Submit a job whose run ends so; whether it was requeued, and the last thing it said."""
    requeued = folder / "requeued"
    requeued.unlink(missing_ok=True)
    said = {"CODE": str(code), "HUNG": "1" * hung, "SAVES": saves}
    job = {"SLURM_NNODES": "1", "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node07", **said}
    environment = {**os.environ, **job, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", str(SCRIPT), "recipe.yaml", "runs/one"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return requeued.exists() and requeued.read_text() == "requeue 17\n", done.stderr


def test_a_job_that_hung_is_requeued_three_times_without_a_new_checkpoint(tmp_path):
    write_stubs(tmp_path, {**ONE_NODE, "torchrun": HANGS})
    assert not end_job(tmp_path, 1)[0]  # another error
    for _ in range(3):
        assert end_job(tmp_path, 1, hung=True) == (
            True,
            "a step hung, see runs/one/hung-rank*.txt; the job is requeued\n",
        )
    is_requeued, said = end_job(tmp_path, 1, hung=True)
    assert not is_requeued
    assert "hung 4 times in a row without a new checkpoint; the job is not requeued" in said
    assert end_job(tmp_path, 1, hung=True, saves=SAVES["file"])[0]
    assert [end_job(tmp_path, 1, hung=True)[0] for _ in range(3)] == [True, True, False]
    assert not end_job(tmp_path, 1)[0]  # the stacks are of an earlier start
    assert not end_job(tmp_path, 0)[0]
    assert end_job(tmp_path, 77, hung=True)[0]


@pytest.mark.parametrize("what", SWEEPS)
def test_a_job_that_hangs_and_writes_no_whole_checkpoint_is_not_requeued_for_ever(tmp_path, what):
    write_stubs(tmp_path, {**ONE_NODE, "torchrun": HANGS})
    ends = [end_job(tmp_path, 1, hung=True, saves=SWEEPS[what])[0] for _ in range(4)]
    assert ends == [True, True, True, False]


@pytest.mark.parametrize("what", SAVES)
def test_hangs_are_in_a_row_only_without_a_new_checkpoint_between_them(tmp_path, what):
    write_stubs(tmp_path, {**ONE_NODE, "torchrun": HANGS})
    for _ in range(3):
        assert end_job(tmp_path, 1, hung=True)[0]
    assert not end_job(tmp_path, 143, saves=SAVES[what])[0]  # preempted, say: requeued by the run
    ends = [end_job(tmp_path, 1, hung=True)[0] for _ in range(4)]
    assert ends == [True, True, True, False]


ONE_NODE = {  # of this machine, whose srun starts the real torchrun
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> requeued; fi',
    "srun": 'shift; exec "$@"',
    "torchrun": f'exec "{sys.executable}" -m torch.distributed.run "$@"',
}
STEPS = 12


def start(folder):
    """Submit a job of one node with two processes."""
    job = {"SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "2"}
    job |= {"SLURM_JOB_ID": "18", "SLURM_JOB_NODELIST": "node07", "MASTER_PORT": str(free_port())}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    paths = {"PATH": path, "PYTHONPATH": str(RECIPES.parent)}
    command = ["bash", str(SCRIPT), "recipe.yaml", "killed"]
    with (folder / "job.log").open("a") as log:
        environment = {**os.environ, **job, **paths}
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )


@pytest.mark.slow
@pytest.mark.xdist_group("workplace")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_that_gets_a_signal_saves_and_goes_on_when_it_is_requeued(beside, tmp_path, number):
    beside("image_tokenizer", "speech_tokenizer")
    (tmp_path / "recipes").symlink_to(RECIPES)
    write_stubs(tmp_path, ONE_NODE)
    trainer = {"accelerator": "cpu", "max_steps": STEPS, "callbacks": [AVERAGE], "logger": False}
    trainer |= {"enable_progress_bar": False}
    recipe = {"base": "recipes/debug/stage3.yaml", "trainer": trainer}
    recipe["run_defaults"] = ["checkpoints", "export"]
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    args = ["--config", "recipe.yaml", "--config", "recipes/strategy/fsdp2.yaml"]
    run_processes(partial(fit, args=args, out="whole"), 2, tmp_path)
    job, until = start(tmp_path), time.monotonic() + 240
    while not is_checkpoint_folder(Path(LAST)):
        assert job.poll() is None, Path("job.log").read_text()[-2000:]
        assert time.monotonic() < until
        time.sleep(0.02)
    begun = time.monotonic()
    (step,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(step), number)  # Slurm signals the step, not the script
    assert job.wait(60) != 0
    assert time.monotonic() - begun < 45
    assert not Path("killed/export").exists()
    said = Path("job.log").read_text()
    assert f"stopped by {number.name} after step" in said
    requeued = Path("requeued").read_text() if Path("requeued").exists() else ""
    assert requeued == ("requeue 18\n" if number == signal.SIGUSR1 else "")
    assert start(tmp_path).wait(240) == 0, Path("job.log").read_text()[-2000:]
    assert same("killed/export", "whole/export")
