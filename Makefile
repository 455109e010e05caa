# Every target sets up what it needs on a fresh machine with Python 3.11, pip, npm, apt and root.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.synced
ARGS ?=

.PHONY: help setup servers run test test-fast attack chaos check format docs bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml uv.lock scripts/setup.sh
	@bash scripts/setup.sh $(VENV)
	@touch $(STAMP)

setup: $(STAMP) ## Make .venv from the lock file

servers: ## Install the real servers that the tests start (Debian packages)
	@bash scripts/servers.sh

run: $(STAMP) ## Walk through the document once, then serve (ARGS=--once ends after the walk)
	@$(RUN)/python scripts/walk.py $(ARGS)

test: $(STAMP) servers ## Everything, against real servers
	@$(RUN)/python -m pytest --reruns 1 --reruns-delay 2 -rfER $(ARGS)

test-fast: $(STAMP) ## What needs no server
	@$(RUN)/python -m pytest -m "not server" $(ARGS)

attack: $(STAMP) servers ## Only the attacks, and the figures that security.md promises
	@$(RUN)/python -m pytest tests/attack --guards $(ARGS)

chaos: $(STAMP) servers ## Only the faults and many replicas, and the figures beside their promises (CHAOS_SCALE=10 CHAOS_KILLS=50 is longer)
	@$(RUN)/python -m pytest tests/chaos $(ARGS)

check: $(STAMP) ## Lint, types, import directions, docs up to date
	@$(RUN)/ruff format --check . && $(RUN)/ruff check . && $(RUN)/mypy && $(RUN)/lint-imports --no-cache
	@$(RUN)/python scripts/matrix.py --check
	@$(RUN)/python scripts/settings.py --check

docs: $(STAMP) ## Regenerate the generated pages
	@$(RUN)/python scripts/matrix.py
	@$(RUN)/python scripts/settings.py

bench: $(STAMP) servers ## Measure beside the peers and the bare drivers; writes bench/RESULTS.md part by part (ARGS="--only one_row --rounds 5")
	@bash bench/peers/setup.sh
	@$(RUN)/python -m bench $(ARGS)

format: $(STAMP) ## Format the code
	@$(RUN)/ruff check --fix-only -q . && $(RUN)/ruff format .

clean: ## Remove what was made here
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .pytest_cache
