# What a person types. Two commands need nothing but this file, a supported Python and GNU make:
# `make demo` and `make test`; each creates what it needs first.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# An interpreter to prefer, as in: make setup PYTHON=/opt/python3.12/bin/python3
PYTHON ?=
VERSION_OF := import sys; print("%d.%d.%d" % sys.version_info[:3])

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url

# Many tests start processes of their own: without bytecode each of them compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo ladder test lint format unit fetch servers bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## create .venv from the lock file (Python 3.11 or 3.12; uses uv where present)

demo: $(STAMP) ## simulated shoppers against the flow's decisions; needs no server
	$(BIN)/nextbest demo

ladder: $(STAMP) ## what static segments, dynamic segments and real-time decisions each pay
	$(BIN)/nextbest ladder

test: lint unit ## lint, then all tests on a real Kafka and a real Redis

lint: $(STAMP) ## ruff, formatting, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: fetch ## the tests alone
	$(BIN)/python -m pytest

fetch: $(STAMP) ## get what the test servers need: Java, Kafka's jars, Redis
	$(BIN)/python -m tests.servers fetch

servers: $(STAMP) ## run Kafka and Redis in the foreground, as the tests do
	@$(BIN)/python -m tests.servers up

bench: $(STAMP) ## run the benchmarks
	@if [ -f benchmarks/run.py ]; then \
		exec $(BIN)/python benchmarks/run.py; \
	else \
		echo "make bench: there is no benchmarks/run.py yet" >&2; exit 1; \
	fi

# Keeps the versions that are locked and still allowed; delete a lock file to move to the newest.
lock: ## bring both lock files up to date with pyproject.toml (needs uv)
	$(LOCK) pyproject.toml --output-file requirements.lock
	echo "setuptools>=69" | $(LOCK) pyproject.toml - --extra dev \
		--constraints requirements.lock --output-file requirements-dev.lock

clean: ## remove the environment and all caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build nextbest.egg-info

# Installed again only when what is to be installed has changed. requirements-dev.lock holds all of
# requirements.lock plus the tools and setuptools, which builds the project itself: with it locked,
# nothing is fetched without a hash.
$(STAMP): pyproject.toml requirements.lock requirements-dev.lock
	@set -eu; \
	python=; found=; \
	for candidate in $(PYTHON) python3.12 python3.11 python3; do \
		version=$$("$$candidate" -c '$(VERSION_OF)' 2>/dev/null) || continue; \
		case "$$version" in \
			3.11.*|3.12.*) python=$$("$$candidate" -c 'import sys; print(sys.executable)'); break;; \
			*) found="$$found $$candidate ($$version)";; \
		esac; \
	done; \
	if [ -z "$$python" ]; then \
		echo "make setup: nextbest needs Python 3.11 or 3.12; found:$${found:- no Python at all}." >&2; \
		echo "Bytewax, the stream engine, ships no wheels for a newer Python than 3.12." >&2; \
		echo "Install one (Debian: apt-get install python3.11 python3.11-venv; uv: uv python install 3.12)" >&2; \
		echo "or name one: make setup PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	case "$$($(BIN)/python -c '$(VERSION_OF)' 2>/dev/null || :)" in \
		"$$version") ;; \
		*) rm -rf $(VENV);; \
	esac; \
	if command -v uv >/dev/null 2>&1; then \
		echo "make setup: Python $$version at $$python, with uv"; \
		export UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV="$(CURDIR)/$(VENV)"; \
		[ -d $(VENV) ] || uv venv --quiet --python "$$python" $(VENV); \
		uv pip sync --quiet --require-hashes requirements-dev.lock; \
		uv pip install --quiet --no-deps --no-build-isolation --editable .; \
	else \
		echo "make setup: Python $$version at $$python, with pip (a minute or two)"; \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
			echo "make setup: $$python cannot create environments: its venv module is missing." >&2; \
			echo "On Debian: apt-get install python$${version%.*}-venv" >&2; \
			exit 1; \
		fi; \
		[ -x $(BIN)/pip ] || "$$python" -m venv --clear $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
			--requirement requirements-dev.lock; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
			--no-build-isolation --editable .; \
	fi; \
	touch $@
