#!/bin/bash
# A Ray cluster in a Slurm allocation, and one run on it; the allocation's end is the cluster's. See README.md.
#   sbatch --nodes=8 cluster/slurm.sh jobs/dcgan64.yaml --out /mnt/distgan/runs/dcgan64 [distgan train's other options]
# Run it in the checkout, which all nodes see, with distgan's environment active (or DISTGAN_ENV=/path/to/env).
#SBATCH --job-name=distgan
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
if [ $# -eq 0 ]; then
  echo "usage: sbatch --nodes=N $0 SPEC [options of distgan train]" >&2
  exit 2
fi
if [ -n "${DISTGAN_ENV:-}" ]; then
  PATH=$DISTGAN_ENV/bin:$PATH
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))     # two jobs on one node do not meet
cpus=${SLURM_CPUS_PER_TASK:-1}
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN                      # reaches the nodes in srun's environment, never on a command line
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID

started=()
end() {
  trap - EXIT TERM INT
  if [ ${#started[@]} -gt 0 ]; then
    kill "${started[@]}" 2>/dev/null || true
    wait "${started[@]}" 2>/dev/null || true
  fi
}
trap end EXIT

node() {  # node NAME ray-start-options...
  local name=$1
  shift
  srun --nodes=1 --ntasks=1 --overlap --nodelist="$name" \
    ray start --num-cpus="$cpus" --temp-dir="$RAY_TMPDIR" --disable-usage-stats --block "$@" &
  started+=($!)
}

node "$head" --head --node-ip-address="$head_ip" --port="$port" --dashboard-host=127.0.0.1
for _ in $(seq 60); do
  if ray health-check --address "$head_ip:$port" >/dev/null 2>&1; then
    break
  fi
  sleep 2
done
for name in "${nodes[@]:1}"; do
  node "$name" --address="$head_ip:$port"
done

# SIGTERM comes 180 s before the time limit, and when the job is pre-empted or cancelled: the run saves and ends, and
# a requeued job goes on from there.
srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
  python -m distgan train "$@" --address "$head_ip:$port" --resume --workers "1-${#nodes[@]}" &
training=$!
stopped=
stop() {
  stopped=yes
  kill -TERM "$training"
}
trap stop TERM INT
status=0
wait "$training" || status=$?
while kill -0 "$training" 2>/dev/null; do  # a signal ends wait, not the training
  status=0
  wait "$training" || status=$?
done
if [ -n "$stopped" ] && [ "$status" -eq 0 ]; then
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$status"
