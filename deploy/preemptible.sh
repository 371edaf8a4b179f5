#!/usr/bin/env bash
# Start a run again until it is done: deploy/preemptible.sh deploy/start.sh --config configs/maskgen.json
# ATTEMPTS (100) and PAUSE (30 s between them) may be given. Ends with the run's code.
set -uo pipefail
child= stopped=
# What this machine is told, the run is told; after that nothing is started again.
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
for ((attempt = 1; attempt <= ${ATTEMPTS:-100}; attempt++)); do
  "$@" &
  child=$!
  wait "$child"; code=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
  # 0: done. 2: something to mend first. All else left a checkpoint to go on from.
  if [ "$code" -eq 0 ] || [ "$code" -eq 2 ] || [ -n "$stopped" ]; then exit "$code"; fi
  echo "attempt $attempt ended with $code; again in ${PAUSE:-30} s" >&2
  sleep "${PAUSE:-30}"
done
exit "$code"
