# edgeinfer: `make demo` shows it, `make test` checks and tests it, `make bench` measures it.
#
# Needs Python 3.11 or newer, git and a package index. Everything is installed into .venv, in the versions of
# packaging/constraints.txt (which pin numpy 2: the legacy extra `tflite` needs numpy 1 and an environment of
# its own). `make constraints` finds the newest versions that work together and writes that file again.

PYTHON ?= $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; \
	done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := packaging/constraints.txt
EXTRAS ?= all
ONLY ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
# Quiet about pip itself; what fails is still printed.
PIP := -m pip -qq --disable-pip-version-check --no-input

.PHONY: help demo test check fault bench docs format constraints clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@echo "make demo         the whole loop on this machine, with a page to look at (DEMO_ARGS=...)"
	@echo "make test         check, then every test (PYTEST_ARGS=...)"
	@echo "make check        lint, format, types, layers, generated documents"
	@echo "make fault        the fault suite at full size (some 50 minutes) -> build/faults.json"
	@echo "make bench        measure; ONLY=pipeline for one part"
	@echo "make docs         generate docs/structure.txt, states.md, configuration.md and schemes.md"
	@echo "make format       apply the formatter and the safe fixes"
	@echo "make constraints  newest versions that work together -> $(CONSTRAINTS)"
	@echo "make clean        remove what was built (.venv too)"

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "edgeinfer: needs Python 3.11 or newer with venv (Debian: python3-venv)" >&2; exit 1; }
	@echo "edgeinfer: installing into $(VENV) (a few minutes the first time)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Dependency groups need pip 25.1, which is newer than what Python 3.11 brings.
	@$(BIN)/python $(PIP) install -c $(CONSTRAINTS) pip
	@$(BIN)/python $(PIP) install -c $(CONSTRAINTS) -e '.[$(EXTRAS)]' --group dev
	@touch $@

demo: $(STAMP)
	@$(BIN)/edgeinfer demo $(DEMO_ARGS)

check: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check . || { echo "edgeinfer: not formatted: make format" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python docs/structure.py --check
	@$(BIN)/python docs/states.py --check
	@$(BIN)/python docs/configuration.py --check
	@$(BIN)/python docs/schemes.py --check

test: check
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

fault: $(STAMP)
	@EDGEINFER_FAULTS=full $(BIN)/python -m pytest tests/fault --timeout=3600 $(PYTEST_ARGS)

bench: $(STAMP)
	@# Start-up and memory are those of an installed package, which brings its compiled modules.
	@$(BIN)/python -m compileall -q runtime quantize devices sync
	@$(BIN)/python tests/bench/run.py --only=$(ONLY)

docs: $(STAMP)
	@$(BIN)/python docs/structure.py
	@$(BIN)/python docs/states.py
	@$(BIN)/python docs/configuration.py
	@$(BIN)/python docs/schemes.py

format: $(STAMP)
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

constraints:
	@rm -rf build/constraints-venv && mkdir -p build
	@$(PYTHON) -m venv build/constraints-venv
	@build/constraints-venv/bin/python $(PIP) install --upgrade pip
	@build/constraints-venv/bin/python $(PIP) install '.[all,openvino]' --group dev
	@{ echo "# Versions that were tested together (Python 3.11, x86-64). Written by: make constraints"; \
	build/constraints-venv/bin/python -m pip --disable-pip-version-check list --format=freeze \
		--exclude edgeinfer --exclude setuptools --exclude wheel; } > build/constraints.txt
	@grep -q '^pip==' build/constraints.txt && mv build/constraints.txt $(CONSTRAINTS)
	@rm -rf build/constraints-venv

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
