#!/usr/bin/env bash
# The pages, built strictly, after the notebook ran: ci/site.sh [FOLDER], by default site/.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
python ci/run_notebook.py docs/tutorials/first-steps.ipynb
site=$(realpath -m "${1:-site}")
mkdocs build --strict --quiet --site-dir "$site"
find "$site" -name '*.html' ! -name 404.html | while read -r page; do
    markdown=${page%.html}.md
    test -s "$markdown" && grep -q "(${markdown#"$site"/})" "$site/llms.txt" || { echo "${page} lacks its Markdown"; exit 1; }
done
echo "$site: $(grep -c '^- ' "$site/llms.txt") pages, each with its Markdown"
