#!/bin/bash
# Encode the data of a recipe with an array of jobs, each with one GPU; the last to finish completes it.
# Run: sbatch --array=0-15 recipes/cluster/slurm_encode.sh recipes/paper/stage1.yaml
# Share out the task shards too: sbatch --array=0-15 --dependency=afterok:JOB the same
#SBATCH --job-name=lightning_omni_encode
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log
set -euo pipefail

recipe=$1
shift
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-4}
srun python -m lightning_omni encode --config "$recipe" --executor slurm-array "$@"
