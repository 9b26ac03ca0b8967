# Needs only Python >= 3.11 with pip and venv, and make. Every target sets up the environment that it uses.
#   make demo        watch a toy job reach an MLflow server, live; ARGS=--keep leaves the server up
#   make test        the tests (a few minutes); ARGS='-k name' to choose
#   make test-all    everything: the slow tests too, with another MLflow version and the light installation
#   make test-volume runs of millions of points, whole (an hour, 10 GB of disk); leaves tests/volume/RESULTS.md
#   make lint types imports        style, types, direction of imports
#   make test-kills  tracksync killed hundreds of times; writes tests/faults/RESULTS.md
#   make test-light  the light installation alone; make clean removes what these targets made

PYTHON ?= python3
ARGS ?=
# Tests mostly wait for servers: two at a time take little longer than one. More processes, more servers.
WORKERS ?= --numprocesses auto --maxprocesses 4 --dist loadfile
BIN := .venv/bin
OLD := .venv-mlflow-2.16
LIGHT := .venv-light
SOURCES := pyproject.toml $(shell find src -name '*.py')

.DEFAULT_GOAL := test
.PHONY: demo test test-all test-light test-kills test-volume venvs lint types imports clean

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ .venv/.run

# MLflow 2.16 does not work with SQLAlchemy 2.1, and needs the pkg_resources that setuptools 81 dropped.
$(OLD)/.done:
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/pip install --quiet 'mlflow==2.16.2' 'sqlalchemy<2.1' 'setuptools<81'
	@touch $@

# Not editable: what is tested is what a user installs.
$(LIGHT)/.done: $(SOURCES) deploy/requirements-light.txt
	test -x $(LIGHT)/bin/python || $(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/pip install --quiet -r deploy/requirements-light.txt
	$(LIGHT)/bin/pip install --quiet --no-deps --force-reinstall .
	@touch $@

demo: .venv/.run
	$(BIN)/tracksync demo $(ARGS)

test: .venv/.dev
	$(BIN)/pytest -m 'not slow' $(WORKERS) $(ARGS)

# What `make test` leaves out; the environments stand before the tests that would be skipped without them.
test-all: venvs test
	$(BIN)/pytest -m slow $(WORKERS) $(ARGS)

test-light: .venv/.dev $(LIGHT)/.done
	$(BIN)/pytest tests/server/test_light.py $(ARGS)

# CI runs a tenth, with the other slow tests.
test-volume: .venv/.dev
	VOLUME_SCALE=1 $(BIN)/pytest -m slow tests/volume $(ARGS)

# 200 kills of each kind and a crash at every step: half an hour or more. Writes tests/faults/RESULTS.md.
test-kills: .venv/.dev
	TRACKSYNC_TEST_KILLS=200 $(BIN)/pytest tests/faults/test_kills.py tests/faults/test_crash_points.py $(ARGS)

venvs: .venv/.dev $(OLD)/.done $(LIGHT)/.done

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

imports: .venv/.dev
	$(BIN)/lint-imports

clean:
	rm -rf .venv $(OLD) $(LIGHT) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -exec rm -rf {} +
	rm -rf src/*.egg-info
