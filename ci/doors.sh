#!/usr/bin/env bash
# What strangers get: packages, the core alone, a plug-in, pages. Built and used in a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
unset PYTHONPATH
repo=$PWD
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

echo "== wheels and source archives"
for package in packages/fpd-core packages/fpd-train packages/fpd-eval examples/own-teacher .; do
    python -m build --no-isolation --outdir "$out/dist" "$package" >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }
done
python ci/check_dist.py "$out/dist"

echo "== fpd-core alone"
python ci/clean_venv.py "$out/core" "$out"/dist/fpd_core-*.whl
"$out/core/bin/python" -I ci/core_alone.py assets/fashion/student assets/fashion/classifier
(cd "$out" && core/bin/fpd-generate --ckpt "$repo/assets/fashion/student" --class 7 --n 2 --out pictures)

echo "== a plug-in"
python ci/clean_venv.py "$out/own" "$out"/dist/{fpd_*,own_teacher-*}.whl --with pytest
(cd "$out" && own/bin/python -m pytest -q -c /dev/null -p no:cacheprovider --import-mode=importlib --rootdir "$out" \
    "$repo/examples/own-teacher/tests")

echo "== other interpreters"
for version in 3.12 3.13; do
    python=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/$version*/bin/python 2>/dev/null | tail -1 || true)
    python=${python:-$(command -v "python$version" || true)}
    if [ -n "$python" ]; then
        cp -r packages "$out/source-$version"
        "$python" -W error -m compileall -q "$out/source-$version"
        echo "Python $version compiles every file"
    else
        echo "Python $version is not here"
    fi
done

echo "== pages"
ci/site.sh "$out/site"
echo "doors: $SECONDS s"
