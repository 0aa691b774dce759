# Each target sets up all it needs in $(VENV), with a Python of 3.11 or later, pip and make.
#   make demo     run the main job on the built-in sample, into demo-out/
#   make test     all tests but the slow ones, on all cores; ARGS="-k halo -x -n0" passes arguments on to pytest
#   make test-slow   the slow ones
#   make lowest   some tests with the lowest versions that pyproject.toml allows, in an environment of its own
#   make lint     style;  make types  type checks;  make format  put the style right
#   make docs     the documentation as a site, into docs/_build/html; a warning fails it, and a link that leads nowhere
#   make linkcheck   whether the addresses of others that it names are there: needs the internet
#   make page     bundle the page of `xsen2 app`, and into site-app/ the one that needs no server: takes node 18 or
#                 later, and npm's registry
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
.PHONY: demo test test-slow lowest lint types format docs linkcheck page bench clean

demo: $(VENV)/.stamp-demo
	$(BIN)/xsen2 demo --out demo-out
	@echo "A map to draw on: make page, then $(BIN)/pip install -c constraints.txt -e '.[app]' and $(BIN)/xsen2 app (docs/app.md)"

PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

# The page of the app, where there is what bundles it: tests that need it are skipped where there is not, with a line.
PAGE := $(if $(shell command -v npm 2>/dev/null),xsen2/app/static/index.html)

xsen2/app/static/index.html: | $(VENV)/.stamp-test
	-$(BIN)/python hatch_build.py

test: $(VENV)/.stamp-test $(PAGE)
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.stamp-test $(PAGE)
	$(PYTEST) -m slow $(ARGS)

# With the oldest of each library: cubes, values in blocks, both sinks, what locks and guards a store.
LOW_TESTS := tests/test_cube.py \
	$(addprefix tests/test_promises.py::test_, chunks_leave_no_seam native_bands_pass_unchanged) \
	$(addprefix tests/test_zarr.py::test_, round_trip_of_a_10_m_dataset georeference_survives_reopening \
	native_cube_keeps_its_grids_and_extras nodata_is_nan_again_exactly_and_empty_chunks_cost_nothing \
	the_same_call_again_computes_nothing) \
	$(addprefix tests/test_overviews.py::test_, pixels_are_means_of_valid_ones \
	levels_lie_where_the_bands_do_and_are_listed) \
	tests/test_eopf_layout.py::test_a_native_cube_comes_back \
	$(addprefix tests/test_cog.py::test_, file_is_a_valid_cog_with_the_same_pixels georeference_to_the_millimetre) \
	$(addprefix tests/test_zarr_guard.py::test_, every_compressor_is_read shards_are_read texts_are_read) \
	tests/test_lock.py::test_two_runs_into_one_store tests/test_weights.py::test_where_the_user_folder_is \
	tests/test_cli_evaluate.py::test_pages_escape_what_they_are_given

lowest: .venv-lowest/.stamp
	.venv-lowest/bin/python -m pytest $(LOW_TESTS) -m "not slow" -q $(ARGS)

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
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/links.py docs/_build/html

linkcheck: $(VENV)/.stamp-docs
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

page: $(VENV)/.stamp-test
	$(BIN)/python hatch_build.py
	$(BIN)/python hatch_build.py site-app
	$(BIN)/python -m xsen2.app.serverless site-app

bench: $(VENV)/.stamp-test
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) .venv-lowest demo-out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build docs/made \
		docs/generated docs/examples xsen2/app/static xsen2/app/page/node_modules site-app

# Beside the lowest versions, those that were tested together.
.venv-lowest/.stamp: pyproject.toml constraints.txt constraints-lowest.txt
	@test -n "$(PYTHON)" || { echo "No Python of 3.11 or later found: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv-lowest
	awk -F== '{sub(/ *#.*/, "")} !NF {next} NR == FNR {low[$$1]; print; next} !($$1 in low)' \
		constraints-lowest.txt constraints.txt > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install -c .venv-lowest/constraints.txt torch
	.venv-lowest/bin/python -m pip install -c .venv-lowest/constraints.txt -e . \
		hypothesis matplotlib pytest rio-cogeo starlette uvicorn
	touch $@

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
