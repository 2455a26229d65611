#!/usr/bin/env bash
# Map a scene on the GPUs of a SLURM cluster: sbatch examples/cluster/slurm.sh SCENE OUTPUT_DIR
#
# SCENE, OUTPUT_DIR and the environment with pfmap[dask] lie on storage that all nodes mount. When the job's time
# is up, submit it again: pfmap goes on from the last finished swath.
#SBATCH --job-name=pfmap
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
scene=$1
out=$2
mkdir -p "$out"
# The scheduler's address, for workers and pfmap; a new one when the job runs again.
address=$(realpath "$out")/.scheduler-$SLURM_JOB_ID.json
rm -f "$address"
trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "$address"' EXIT

# A scheduler and workers that end are started again: pfmap waits for them, and loses what was in work.
while true; do
    dask scheduler --scheduler-file "$address" --no-dashboard || true
    sleep 1
done &

# One worker per task, and so one per GPU: SLURM shows each task its own. On nodes without GPUs leave out
# --gpus-per-task and --resources, and give a worker the task's cores: --nthreads "$SLURM_CPUS_PER_TASK".
srun --kill-on-bad-exit=0 bash -c '
    until [ -s "$0" ]; do sleep 1; done
    while true; do
        dask worker --scheduler-file "$0" --resources "GPU=1" --nthreads 1 --memory-limit 0 \
            --no-dashboard --local-directory "${TMPDIR:-/tmp}" --death-timeout 60 || true
        sleep 1
    done' "$address" &

until [ -s "$address" ]; do sleep 1; done
pfmap predict "$scene" -o "$out" --cluster "$address" --device cuda
