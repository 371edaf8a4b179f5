#!/usr/bin/env bash
# The demo in a minute: a few steps, a few images, the same commands. Checks that the report is really there.
set -euo pipefail
run=$(mktemp -d)/fashion
trap 'rm -rf "$(dirname "$run")"' EXIT
deepspeed --quiet --master_port $((20000 + RANDOM % 20000)) packages/fpd-train/run.py --config configs/fashion.json \
  --set output="$run" --set steps=8 --set log_every=2 --set save_every=4
fpd-eval compare --ckpt "$run/student" --steps 1 4 --num-images 300 --num-references 1000 \
  --run "$run" --out "$run/report" --cache-dir "$run/cache"
for file in report.md report.html results.json; do
  [ -s "$run/report/$file" ] || { echo "the demo wrote no $file" >&2; exit 1; }
done
# The exported folder opens both ways, and draws the same.
python - "$run/student" <<'CHECK'
import sys

import torch
from diffusers import DiffusionPipeline

from fpd_core import load_generator

pipe = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline=sys.argv[1], trust_remote_code=True)
drawn = pipe(class_labels=[1, 8], generator=torch.Generator().manual_seed(3), output_type="pt").images
assert torch.equal(drawn, load_generator(sys.argv[1]).generate([1, 8], seed=3)), "diffusers draws other images"
CHECK
