# Every target works from a fresh clone: `setup` runs first where it is needed.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
PACKAGES := packages/fpd-core packages/fpd-train packages/fpd-eval

.PHONY: help shell generate setup demo demo-text test test-faults lint bench smoke ablations doors site

# Without a target `make` says what there is, so this one comes first.
help:
	@echo "make setup        install into .venv (Python 3.11 or newer); every other target does it first"
	@echo "make shell        a shell in which fpd-generate, fpd-train and fpd-eval are found"
	@echo "make demo         distil the bundled teacher, measure it, write runs/fashion/report/"
	@echo "make demo-text    the same for the bundled text-to-image teacher"
	@echo "make generate     pictures of the bundled student; ARGS='--class 7 --n 16 --out pictures' changes what"
	@echo "make test lint    what CI runs; make smoke is the demo in a minute, make bench times a step"
	@echo "make doors site   wheels in clean environments, the pages; both alone"
	@echo "make test-faults  kills, full disks and hostile files; make ablations runs ci/ablations.json"

shell: setup
	@echo "type exit to leave; in a shell of your own: source .venv/bin/activate"
	@exec $${SHELL:-bash} -i

generate: setup
	@fpd-generate --ckpt assets/fashion/student $(or $(ARGS),--class 0 --class 7 --n 8 --out pictures)

setup: .venv/ready

.venv/ready: constraints.txt pyproject.toml VERSION $(PACKAGES:%=%/pyproject.toml)
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

doors: setup
	@ci/doors.sh

site: setup
	@ci/site.sh
