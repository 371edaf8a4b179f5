#!/usr/bin/env bash
# Distil the bundled text-to-image teacher, ask student, teacher and the ceiling GenEval's six tasks, compare:
# ci/demo_text.sh [extra options of run.py]
set -euo pipefail
run=runs/scenes
deepspeed --quiet --master_port $((20000 + RANDOM % 20000)) packages/fpd-train/run.py --config configs/scenes.json "$@"
fpd-eval geneval --suite scenes --ckpt "$run/student" --steps 1 4 16 \
  --system configs/systems/bundled/scenes_ceiling.json --out "$run/geneval"
judged=()
for name in ceiling teacher-16 teacher-4 teacher-1 student; do
  judged+=("$name=$run/geneval/$name/results.jsonl")
done
fpd-eval compare --geneval "${judged[@]}" --run "$run" --out "$run/report"
