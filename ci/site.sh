#!/usr/bin/env bash
# The pages, built strictly, after the notebook ran: ci/site.sh [FOLDER], by default site/.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
python ci/run_notebook.py docs/tutorials/first-steps.ipynb
NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir "$(realpath -m "${1:-site}")"
