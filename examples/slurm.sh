#!/bin/bash
# A run as a Slurm job, and again where it was stopped: `sbatch examples/slurm.sh run.toml`.
# Two minutes before its time is up Slurm signals the run, which ends resumable; the job then puts
# itself into the queue again, until the run is finished.
#SBATCH --job-name=icpo
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=120G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

config=${1:-icpo.toml}
# The environment, and where the run lies: a file system that all nodes see.
# source /shared/icpo/.venv/bin/activate

for signal in USR1 TERM; do trap "kill -$signal \$!" $signal; done
icpo train "$config" --plain "${@:2}" &
run=$!

# `wait` returns when a trap was run; the run is then still ending.
wait $run; status=$?
while kill -0 $run 2>/dev/null; do wait $run; status=$?; done

# 138: ended by USR1 (128 + 10). The same job again goes on with it.
if [ $status -eq 138 ] && [ -n "${SLURM_JOB_ID:-}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
