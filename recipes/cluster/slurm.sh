#!/bin/bash
# Train a recipe on several nodes under Slurm; a job that is requeued goes on from its newest valid checkpoint.
# Run: sbatch --nodes 4 recipes/cluster/slurm.sh recipes/paper/stage1.yaml runs/paper/stage1
#SBATCH --job-name=lightning_omni
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@300
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

recipe=$1 root=$2
gpus=${SLURM_GPUS_ON_NODE:-8}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}

# one torchrun per node, which starts a process per GPU; Lightning takes ranks from torchrun
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-8} / gpus > 0 ? ${SLURM_CPUS_PER_TASK:-8} / gpus : 1))
# SIGUSR1, 5 minutes before the time is over: a checkpoint, and the job is put into the queue again;
# torchrun, which gets it too, passes it on and waits (that of torch 2.11 for 30 s, whatever is set)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240
mkdir -p "$root"
touch "$root/job-begun"
code=0
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_NNODES" --nproc_per_node "$gpus" \
  --signals_to_handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$first:${MASTER_PORT:-29500}" \
  -m lightning_omni fit --config "$recipe" --config recipes/strategy/fsdp2.yaml \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$gpus" \
  --trainer.default_root_dir "$root" --ckpt_path last || code=$?

# a step that hung ended the run (code 77, which torchrun makes 1) and left the stacks of its threads:
# the job is put into the queue again, up to 3 times in a row without a new checkpoint
hangs="$root/hangs"
is_new() { [ -n "$(find "$@" -newer "$root/job-begun" -print -quit 2>/dev/null)" ]; }
# whole checkpoints only: the times of folders change too when unfinished files are deleted
if [ "$code" = 0 ] || is_new "$root/checkpoints" \( -type f -name '*.ckpt' -o -path '*.ckpt/SHA256SUMS' \); then
  rm -f "$hangs"
fi
if [ "$code" != 0 ] && is_new "$root" -maxdepth 1 -name 'hung-rank*.txt'; then
  count=$(($(cat "$hangs" 2>/dev/null || echo 0) + 1))
  echo "$count" >"$hangs"
  if [ "$count" -le 3 ]; then
    echo "a step hung, see $root/hung-rank*.txt; the job is requeued" >&2
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "steps hung $count times in a row without a new checkpoint; the job is not requeued" >&2
  fi
fi
exit "$code"
