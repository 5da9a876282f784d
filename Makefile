# Two commands: `make demo` and `make test`. Each does its own set-up; nothing is done twice.
# As root on Debian 12/13 or Ubuntu 24.04 missing packages are installed by apt; otherwise they are named.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The system's python, for python3-bpfcc belongs to it; any other of 3.11 or newer works too (bcc is pure ctypes).
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: setup ## a real llama-server under load, recorded and reported: demo.duckdb, demo.html
	$(BIN)/flowprof demo

setup: $(STAMPS)/setup ## what recording needs: apt packages, .venv, flowprof in it

system:
	@PYTHON="$(PYTHON)" .ci/packages record

$(STAMPS)/setup: pyproject.toml | system
	@test -n "$(PYTHON)" || { echo "no python3 of version 3.11 or newer was found" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/develop: $(STAMPS)/setup .ci/packages
	@PYTHON="$(PYTHON)" .ci/packages test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	@touch $@

test: $(STAMPS)/develop lint ## lint, types, import rules and all tests (root and BPF: nothing is skipped)
	.ci/tests $(TESTS)

lint: $(STAMPS)/develop build/lint/flowprof ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	cd build/lint && ../../$(BIN)/mypy --config-file ../../pyproject.toml \
		-p flowprof.probes -p flowprof.profiler -p flowprof.viewers -p flowprof.examples
	$(BIN)/lint-imports

# mypy finds packages by their folders, and ours have no folder called flowprof above them.
build/lint/flowprof:
	@mkdir -p build/lint && ln -sfn ../.. $@

format: $(STAMPS)/develop ## let ruff format the sources
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

bench: $(STAMPS)/develop ## the benchmark table of the README (root, idle machine, an hour; BENCH=ring: a part)
	$(BIN)/python tests/benchmarks/bench.py $(BENCH)

clean: ## remove what make built here (the model cache in ~/.cache/flowprof stays)
	rm -rf $(VENV) build flowprof.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo.duckdb demo.html

.PHONY: help demo setup system test lint format bench clean
