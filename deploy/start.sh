#!/usr/bin/env bash
# The ranks of one machine: deploy/start.sh --config configs/maskgen.json [options of run.py]
# NODES, NODE_RANK, GPUS (of this machine), MASTER_ADDR, MASTER_PORT say where it stands; alone, it needs none of them.
set -euo pipefail
cd "$(dirname "$0")/.."
# Not a child of this shell: a request to stop must reach the launcher, which passes it on to its ranks.
exec torchrun \
  --nnodes="${NODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="${GPUS:-gpu}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-29500}" \
  packages/fpd-train/run.py "$@"
