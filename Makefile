# Each target does its own set-up: a virtual environment (made anew when pyproject.toml changes), installs, and a
# real Redis server. All it takes is Python 3.11 or newer, make and pip; no compiler.
#
#   make test         linters, type checkers, packaging, the whole suite, the suite on the other Pythons found here,
#                     and the quick benchmarks
#   make lint         linters and type checkers only
#   make demo         four workers over 28,000 airports; about 20 seconds
#   make demo-chaos   the same while Redis is killed and workers are stopped
#   make bench        measure beside the peers and write docs/benchmarks.md; make bench-quick: under a minute
#   make soak         long runs; SOAK_SECONDS (default 600) is handed to the tests by the environment
#   make clean        remove whatever these made
#
# PYTHON=/path/to/python chooses the interpreter, REDIS_SERVER_BINARY=/path/to/redis-server the server.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BEST = $$(scripts/pythons best)
READY = python=$(BEST); test -n "$$python" || { echo "no Python 3.11 or newer was found" >&2; exit 1; }; "$$python" scripts/environment.py
# Without a server the demo and the tests still run: the demo says so, tests skip (in CI they fail).
SERVER = REDIS_SERVER_BINARY=$$(.venv/bin/python scripts/redis_server.py || :); export REDIS_SERVER_BINARY

.PHONY: help test lint demo demo-chaos bench bench-quick soak clean

help:
	@sed -n 's/^#   //p' Makefile

test:
	@$(READY) .venv dev
	@$(SERVER); exec .venv/bin/python scripts/check.py

lint:
	@$(READY) .venv dev
	@exec .venv/bin/python scripts/check.py lint

demo:
	@$(READY) .venv demo
	@$(SERVER); exec .venv/bin/python examples/fleet.py $(ARGS)

demo-chaos:
	@$(READY) .venv demo
	@$(SERVER); exec .venv/bin/python examples/fleet.py --chaos $(ARGS)

bench:
	@$(READY) .venv-bench bench
	@$(subst .venv/,.venv-bench/,$(SERVER)); exec .venv-bench/bin/python benchmarks/run.py $(ARGS)

bench-quick:
	@$(READY) .venv-bench bench
	@$(subst .venv/,.venv-bench/,$(SERVER)); exec .venv-bench/bin/python benchmarks/run.py --quick $(ARGS)

soak: export SOAK_SECONDS ?= 600
soak:
	@$(READY) .venv dev
	@$(SERVER); exec .venv/bin/python -m pytest -m soak --timeout=0 -s $(ARGS)

clean:
	rm -rf .venv .venv-* .cache build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
