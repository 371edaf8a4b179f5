# Every target works from a fresh clone: `setup` runs first where it is needed.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
PACKAGES := packages/fpd-core packages/fpd-train packages/fpd-eval

.PHONY: setup demo demo-text test test-faults lint bench smoke ablations

setup: .venv/ready

.venv/ready: constraints.txt pyproject.toml $(PACKAGES:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fpd needs Python 3.11 or newer with venv (Debian, Ubuntu: apt-get install python3-venv)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt $(PACKAGES:%=--editable %) --editable '.[dev]'
	@# pip would compile all 20,000 modules; these imports compile the 5,000 in use, for machines that never do it later.
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import fpd_train.trainer, matplotlib.figure, torch._dynamo'
	@touch $@

demo: setup
	@ci/demo.sh configs/fashion.json runs/fashion

demo-text: setup
	@ci/demo_text.sh

# A core for each of the two workers.
test: export OMP_NUM_THREADS := 1
test: setup
	$(BIN)/pytest -m "not distributed and not faults" -n 2
	$(BIN)/pytest -m "distributed and not faults" -n 2

test-faults: setup
	FPD_FUZZ=20 $(BIN)/pytest -m "faults or fuzz"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy packages/fpd-core/src packages/fpd-train/src packages/fpd-eval/src

smoke: setup
	@ci/smoke.sh

bench: setup
	$(BIN)/fpd-train bench --config configs/fashion.json

ablations: setup
	$(BIN)/python ci/ablations.py $(ARGS)
