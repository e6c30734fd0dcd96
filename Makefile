# `make` alone prints what there is. Only make, bash and a Python are needed to begin.
#
# The virtual environment is plain `python3 -m venv`; every package comes from a lock file with
# hashes. Two stamps in the same environment: `make run` installs what the server needs, everything
# else installs the tools of development over it (same versions, a test compares the locks).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PORT ?= 8420
DATA ?= .doxstore
PYTHON ?= python3
TESTS ?= tests
WORKERS ?= 3

VENV := .venv
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev
# --no-deps: a lock is complete, so nothing is left to resolve; `pip check` proves it afterwards.
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet --no-input
FROM_LOCK := $(PIP) install --require-hashes --no-deps -r
# The build backend is in the locks, so nothing is fetched behind the hashes' back.
ITSELF := $(PIP) install --no-build-isolation --no-deps --editable .

.PHONY: help
help: ## print this
	@echo "dox-core-store: make TARGET [VARIABLE=value]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PORT=$(PORT)  DATA=$(DATA)  PYTHON=$(PYTHON)  TESTS=$(TESTS)"
	@echo "First time here: make run, then in a second terminal: . $(DATA)/dev.env"

.PHONY: run
run: $(RUNTIME) ## install, then serve a development store on loopback (PORT, DATA)
	@exec $(VENV)/bin/doxstore dev --port "$(PORT)" --data "$(DATA)"

.PHONY: test
test: $(DEV) ## install, all checks, all tests on real servers (TESTS=tests/unit for a part)
	@scripts/system-tools strace gcc postgres setpriv systemd-analyze wrk
	@$(MAKE) --no-print-directory check
	$(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(TESTS)

.PHONY: check
check: $(DEV) ## lint, format, types, the dependency rule, generated documents
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python scripts/error_docs.py --check
	$(VENV)/bin/python scripts/cli_docs.py --check

.PHONY: bench
bench: $(DEV) ## measure this store beside OpenBao, write benchmarks/RESULTS.md
	@scripts/system-tools wrk setpriv
	$(VENV)/bin/python benchmarks/run.py

.PHONY: format
format: $(DEV) ## rewrite the source in the one format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: docs
docs: $(DEV) ## rewrite the generated documents
	$(VENV)/bin/python scripts/error_docs.py
	$(VENV)/bin/python scripts/cli_docs.py

.PHONY: install
install: $(DEV) ## make .venv with everything for development

.PHONY: install-runtime
install-runtime: $(RUNTIME) ## make .venv with what the server needs

.PHONY: lock
lock: ## solve pyproject.toml into requirements/ again (UPGRADE=--upgrade for newer versions)
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --no-deps -r requirements/lock.txt
	@UV=build/lock/bin/uv scripts/lock $(UPGRADE)

.PHONY: clean
clean: ## remove what can be made again; never a store
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests scripts benchmarks examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.13" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing what the server needs"
	@$(FROM_LOCK) requirements/runtime.txt
	@$(ITSELF)
	@$(PIP) check
	@touch $@

# Everything in runtime.txt is in dev.txt too, so this also brings the runtime up to date.
$(DEV): requirements/dev.txt requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing what development needs"
	@$(FROM_LOCK) requirements/dev.txt
	@$(ITSELF)
	@$(PIP) check
	@touch $(RUNTIME) $@
