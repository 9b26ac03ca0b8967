# Needs only Python >= 3.11 with pip and venv, and make. Every target sets up the environment that it uses.
#   make demo        watch a toy job reach an MLflow server, live; ARGS=--keep leaves the server up
#   make test        the tests (a few minutes); ARGS='-k name' to choose
#   make test-all    everything: the slow tests too, with another MLflow version and the light installation
#   make test-volume runs of millions of points, whole (an hour, 10 GB of disk); leaves tests/volume/RESULTS.md
#   make lint types imports        style, types, direction of imports
#   make test-kills  tracksync killed hundreds of times; writes tests/faults/RESULTS.md
#   make test-matrix stores of six MLflow versions, four servers, two clients: all; leaves tests/matrix/RESULTS.md
#   make bench       how near to what a server takes, beside other tools: 40 minutes; BENCH_SCALE=1 whole; tests/benchmarks/RESULTS.md
#   make test-slurm  the backfill on a real Slurm, whole; leaves tests/slurm/RESULTS.md
#   make test-pythons  with Python 3.11 to 3.13, and with the oldest dependencies; half an hour
#   make release     what a release would be: built, checked, installed; publishes nothing
#   make docs        the pages that are made from the code: command line, trouble
#   make screenshots MLflow's page after a sync, in Chromium: the pictures in deploy/docs/images
#   make test-light  the light installation alone; make clean removes what these targets made

PYTHON ?= python3
ARGS ?=
# Tests mostly wait for servers: two at a time take little longer than one. More processes, more servers.
WORKERS ?= --numprocesses auto --maxprocesses 4 --dist loadfile
BIN := .venv/bin
# Other MLflow versions, as servers: .venv-mlflow-2.16 and so on. CI makes the first ones, `make test-matrix` all.
OLD := 2.9 2.16 3.1
OLDER := 2.22 3.7
MLFLOW_2.9 := 2.9.2
MLFLOW_2.16 := 2.16.2
MLFLOW_2.22 := 2.22.4
MLFLOW_3.1 := 3.1.4
MLFLOW_3.7 := 3.7.0
# tracksync itself on the oldest MLflow that it works with
LOWEST := .venv-mlflow-2.9
LIGHT := .venv-light
SOURCES := pyproject.toml $(shell find src -name '*.py')

.DEFAULT_GOAL := test
# mlflow-export-import, for comparison: without its dependencies, which would bring another MLflow
BENCH := .venv-bench

.PHONY: demo bench test test-all test-light test-slurm test-matrix test-kills test-volume screenshots docs test-pythons release venvs venvs-all lint types imports clean

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ .venv/.run

.venv/.release: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[release]'
	@touch $@ .venv/.run

# MLflow before 3.8 does not work with SQLAlchemy 2.1, MLflow 2 needs the pkg_resources that setuptools 81 dropped.
.venv-mlflow-%/.done:
	$(PYTHON) -m venv .venv-mlflow-$*
	.venv-mlflow-$*/bin/pip install --quiet 'mlflow==$(MLFLOW_$*)' 'sqlalchemy<2.1' 'setuptools<81'
	@touch $@

# Not editable, as below.
$(LOWEST)/.tracksync: $(LOWEST)/.done $(SOURCES)
	$(LOWEST)/bin/pip install --quiet . 'mlflow==$(MLFLOW_2.9)'
	$(LOWEST)/bin/pip install --quiet --no-deps --force-reinstall .
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

# All 64 parts of slurm/backfill.sbatch, of which CI runs 12. Writes tests/slurm/RESULTS.md.
test-slurm: .venv/.dev
	TRACKSYNC_TEST_SHARDS=64 $(BIN)/pytest tests/slurm/test_backfill.py $(ARGS)

docs: .venv/.dev
	$(BIN)/python tests/pages.py

# Needs Chromium and its driver, and looks at what the README shows.
screenshots: .venv/.dev
	mkdir -p deploy/docs/images
	TRACKSYNC_TEST_SCREENSHOTS=$(CURDIR)/deploy/docs/images $(BIN)/pytest tests/ui $(ARGS)

$(BENCH)/.done: | .venv/bin/python
	-$(BIN)/pip install --quiet --no-deps --target $(BENCH) mlflow-export-import==1.2.0 tabulate
	@mkdir -p $(BENCH) && touch $@

# Asserts nothing: it reports. Runs on a quiet machine are worth more.
bench: .venv/.dev $(BENCH)/.done
	BENCH_EXPORT_IMPORT=$(if $(wildcard $(BENCH)/mlflow_export_import),$(CURDIR)/$(BENCH)) \
	$(BIN)/python tests/benchmarks/run.py

test-matrix: venvs-all
	TRACKSYNC_TEST_MATRIX=whole $(BIN)/pytest tests/matrix $(ARGS)

venvs: .venv/.dev $(OLD:%=.venv-mlflow-%/.done) $(LOWEST)/.tracksync $(LIGHT)/.done

venvs-all: venvs $(OLDER:%=.venv-mlflow-%/.done)

# Python 3.11 to 3.13, each that is installed, with the newest and the oldest dependencies; ARGS='-s lowest' chooses.
test-pythons: .venv/.dev
	$(BIN)/nox $(ARGS)

# Dry run: publishes nothing.
release: .venv/.release
	.ci/release

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

imports: .venv/.dev
	$(BIN)/lint-imports

clean:
	rm -rf .venv .venv-mlflow-* $(LIGHT) $(BENCH) .nox build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -exec rm -rf {} +
	rm -rf src/*.egg-info
