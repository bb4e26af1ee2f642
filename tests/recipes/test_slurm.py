"""The Slurm script reaches torchrun on every node with the right numbers."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "recipes/cluster/slurm.sh"
STUBS = {
    "scontrol": 'echo "$@" >> scontrol.log; printf "node07\\n"; sleep 0.1; printf "node08\\n"',
    "srun": 'shift; for n in $(seq "$SLURM_NNODES"); do "$@"; done',
    "torchrun": 'printf "%s\\n" "$*" "threads $OMP_NUM_THREADS" >> torchrun.log',
}


def submit(folder):
    for name, script in STUBS.items():
        stub = folder / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/bash\n{script}\n")
        stub.chmod(0o755)
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
    wanted = "--nnodes 2 --nproc_per_node 4 --rdzv_id 17 --rdzv_backend c10d "
    assert lines[0].startswith(f"{wanted}--rdzv_endpoint node07:29500 -m lightning_omni fit ")
    assert "--trainer.num_nodes 2 --trainer.devices 4" in lines[0]
    assert "--ckpt_path" not in lines[0]
    (tmp_path / "runs/one/checkpoints/last.ckpt").mkdir(parents=True)
    assert submit(tmp_path)[0] == f"{lines[0]} --ckpt_path runs/one/checkpoints/last.ckpt"
