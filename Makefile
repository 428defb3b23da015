# Everything that one does in this house. `make help` lists it; CONTRIBUTING.md explains it.
# PYTHON picks the interpreter for a new .venv, JOBS the number of test processes, ARGS is handed to pytest.

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
NEEDS := pyproject.toml constraints.txt scripts/install.py
CHECKED := src tests scripts benchmarks
# Each test process computes with one thread: two processes with two threads each would fight over two cores. Those of a
# test that asks for two sleep while they wait for each other, and do not keep a core busy.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
# `make constraints` resolves on each of these; all four Pythons that we support have to be there.
PYTHONS ?= python3.10 python3.11 python3.12 python3.13

.DEFAULT_GOAL := help
.PHONY: help demo install install-dev test test-all check check-format check-lint check-types check-imports \
        format hooks constraints clean clean-venv

help:  ## list these commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: install  ## install, then train a small GPT and write with it
	$(BIN)/handloom demo

install: $(VENV)/.installed-main  ## create .venv and install what is needed to use handloom
install-dev: $(VENV)/.installed-dev  ## the same, with what is needed to work on it

test: install-dev  ## the tests, without the slow ones
	$(ONE_THREAD) $(PYTEST) -m "not slow" $(ARGS)

test-all: install-dev  ## all tests, the slow ones too
	$(ONE_THREAD) $(PYTEST) $(ARGS)

check: check-format check-lint check-types check-imports  ## format, lint, types, import contracts

check-format: install-dev
	$(BIN)/ruff format --check $(CHECKED)

check-lint: install-dev
	$(BIN)/ruff check $(CHECKED)

check-types: install-dev
	$(BIN)/mypy src scripts

check-imports: install-dev
	$(BIN)/lint-imports

format: install-dev  ## rewrite the code in the common format, and fix what the linter can fix
	$(BIN)/ruff check --fix-only $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

hooks: install-dev  ## let every commit run the checks first
	$(BIN)/pre-commit install

constraints:  ## resolve all versions again and write constraints.txt
	$(PYTHON) scripts/constraints.py $(PYTHONS)

clean:  ## remove caches and build output; runs/ and .venv stay
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv:  ## remove .venv
	rm -rf $(VENV)

# The stamps: an installation is repeated only when what it depends on has changed.
$(VENV)/.installed-main: $(NEEDS) | $(VENV)/.created
	$(BIN)/python scripts/install.py
	@touch $@

$(VENV)/.installed-dev: $(NEEDS) | $(VENV)/.created
	$(BIN)/python scripts/install.py --dev
	@touch $(VENV)/.installed-main $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.10 or newer, or say: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Handloom needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Say: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python cannot create environments. On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@
