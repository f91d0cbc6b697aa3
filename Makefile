# make install | quickstart | test | test-faults | test-browser | test-cluster | reliability | wheel | docs | audit | lint | dev | bench
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart test test-faults test-browser test-cluster reliability wheel docs audit lint dev bench

install: $(STAMP)

# The CPU build of torch is enough for everything here; with a CUDA build of your own in .venv,
# pip keeps it as long as its version is the pinned one.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

quickstart: install
	$(BIN)/fparec run --datasets ml-latest-small --jobs 2

# A file's tests stay in one process, so that what they share is made once.
test: install
	$(BIN)/pytest -n 2 --dist loadfile

test-faults: install
	$(BIN)/pytest -m 'fault and not cluster'
	$(BIN)/python tests/faults/coverage_guided.py

# The page has the cluster's rows too.
reliability: install
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,ray]'
	$(BIN)/pytest -m fault --reliability

test-cluster: install
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,ray]'
	$(BIN)/pytest -m cluster tests/cluster

# Debian's Chromium, where there is none.
test-browser: install
	command -v chromium >/dev/null || (apt-get update && apt-get install -y chromium)
	$(BIN)/pytest -m browser tests/browser

# What a user installs: without a checkout, from an empty folder.
wheel: install
	PYTHON=$(abspath $(BIN)/python) .ci/wheel

# --strict: a link or a name that leads nowhere fails. The site is written to build/site.
docs: install
	$(BIN)/mkdocs build --strict

# Against PyPI's vulnerability database where it can be had: where it knows of one that is known.
# --strict: what it could not look up fails too.
KNOWN := https://pypi.org/pypi/jinja2/3.1.2/json
audit: install
	@if $(BIN)/python -c "import requests; assert requests.get('$(KNOWN)', timeout=20).json()['vulnerabilities']" 2>/dev/null; \
	then $(BIN)/pip-audit --strict --disable-pip --no-deps --progress-spinner off --requirement constraints.txt; \
	else echo "audit: not done, the vulnerability database of pypi.org cannot be had here"; fi

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dev: install
	$(BIN)/fparec dev

bench: install
	$(BIN)/python benchmarks/bench.py
