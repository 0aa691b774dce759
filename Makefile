# Each target sets up all it needs in $(VENV), with a Python of 3.11 or later, pip and make.
#   make demo     run the main job on the built-in sample, into demo-out/
#   make test     all tests but the slow ones, on all cores; ARGS="-k halo -x -n0" passes arguments on to pytest
#   make test-slow   the slow ones
#   make lint     style;  make types  type checks;  make format  put the style right
#   make page     bundle the page of `xsen2 app`: needs node 18 or later, and npm's registry
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
.PHONY: demo test test-slow lint types format page bench clean

demo: $(VENV)/.stamp-demo
	$(BIN)/xsen2 demo --out demo-out
	@echo "A map to draw on: make page, then $(BIN)/pip install -c constraints.txt -e '.[app]' and $(BIN)/xsen2 app (docs/app.md)"

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

page: $(VENV)/.stamp-test
	$(BIN)/python hatch_build.py

bench: $(VENV)/.stamp-test
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) demo-out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis xsen2/app/static xsen2/app/page/node_modules

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
