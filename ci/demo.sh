#!/usr/bin/env bash
# Distil the bundled teacher and compare: ci/demo.sh CONFIG RUN_FOLDER [extra options of run.py]
set -euo pipefail
config=$1 run=$2
shift 2
deepspeed --quiet --master_port $((20000 + RANDOM % 20000)) packages/fpd-train/run.py --config "$config" "$@"
fpd-eval compare --ckpt "$run/student" --ckpt "bundled student=assets/fashion/student" \
  --steps 1 2 4 8 16 --num-images 500 --run "$run" --out "$run/report"
