# Each target sets up all it needs in $(VENV), with a Python of 3.11 or later, pip and make.
#   make demo     run the main job on the built-in sample, into demo-out/
#   make test     all tests but the slow ones, on all cores; ARGS="-k halo -x -n0" passes arguments on to pytest
#   make test-slow   the slow ones
#   make lint     style;  make types  type checks;  make format  put the style right
#   make docs     the documentation as a site, into docs/_build/html
#   make bench    every benchmark script
#   make clean    remove the environment and what the targets wrote

SHELL := /bin/bash
VENV  ?= .venv
BIN   := $(VENV)/bin

ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
endif

.DEFAULT_GOAL := test
.PHONY: demo test test-slow lint types format docs bench clean

demo: $(VENV)/.stamp-demo
	$(BIN)/xsen2 demo --out demo-out

PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

test: $(VENV)/.stamp-test
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.stamp-test
	$(PYTEST) -m slow $(ARGS)

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(VENV)/.stamp-test
	$(BIN)/mypy

format: $(VENV)/.stamp-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.stamp-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.stamp-test
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) demo-out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch comes first and alone, at the constrained version: so pip settles on the build that it finds for
# this machine, and nothing that follows can exchange it.
$(VENV)/.stamp-torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python of 3.11 or later found: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	touch $@

$(VENV)/.stamp-%: pyproject.toml constraints.txt $(VENV)/.stamp-torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[$*]'
	touch $@
