#!/usr/bin/env bash
# Keep a run folder in a bucket, for machines that lose their disks: deploy/bucket.sh pull|push RUN_FOLDER BUCKET_FOLDER
#   deploy/bucket.sh pull runs/maskgen s3://bucket/maskgen      before the run
#   deploy/bucket.sh push runs/maskgen s3://bucket/maskgen      every few minutes, and after it
# COPY copies what is in one folder into another, "rclone copy" by default; "aws s3 sync" and "gcloud storage rsync -r" do.
set -euo pipefail
what=$1 run=${2%/} bucket=${3%/}
read -ra copy <<<"${COPY:-rclone copy}"
case $what in
  pull)
    mkdir -p "$run"
    "${copy[@]}" "$bucket" "$run"
    ;;
  push)
    # Whole checkpoints alone, and the pointer to the newest after all that it points to.
    staged=$(mktemp -d)
    trap 'rm -rf "$staged"' EXIT
    mkdir "$staged/pointer"
    [ ! -f "$run/checkpoints/latest" ] || cp "$run/checkpoints/latest" "$staged/pointer/latest"
    for step in "$run"/checkpoints/step_*/; do
      [ ! -f "$step/manifest.json" ] || "${copy[@]}" "${step%/}" "$bucket/checkpoints/$(basename "$step")"
    done
    "${copy[@]}" "$staged/pointer" "$bucket/checkpoints"
    mkdir "$staged/rest"
    find "$run" -maxdepth 1 -type f ! -name '.*' -exec cp {} "$staged/rest/" \;
    "${copy[@]}" "$staged/rest" "$bucket"
    ;;
  *)
    echo "pull or push, not $what" >&2
    exit 2
    ;;
esac
