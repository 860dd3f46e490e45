# The commands of this project: make setup | demo | up | test | lint | bench | chaos. See CONTRIBUTING.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the benchmarks compare with; never mixed with ours.
PEERS := .venv-bench
STATE ?= .state
PORT ?= 8080
.DEFAULT_GOAL := help

.PHONY: help setup demo up test lint format proto bench chaos clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.done ## Make .venv with everything in it

$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
		|| { echo "Triton from PyPI goes with Python 3.11 and 3.12 only; name one with: make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: setup ## From the sample checkpoint to a streamed answer, then stop
	$(BIN)/shed demo --state-dir $(STATE) --http-port $(PORT)

up: setup ## Run the whole platform on this machine until Ctrl-C
	$(BIN)/shed up --state-dir $(STATE) --http-port $(PORT)

# Most tests wait for other processes most of the time, so two at once take little more than half.
test: setup ## Run all tests, end-to-end ones included
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: setup ## Check format, style, types, walls between parts, and protos
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/protos.py check

format: setup ## Format the code and the protos
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format -w proto

proto: setup ## Generate libs/engineshed/api from proto/
	$(BIN)/python tools/protos.py generate

bench: setup ## Measure speed beside limits and peers; one program with ONLY=gateway
	@$(MAKE) --no-print-directory $(PEERS)/.done \
		|| echo "The peers could not be installed: going on without their figures."
	$(BIN)/python -m benchmarks $(ONLY)

$(PEERS)/.done: benchmarks/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

chaos: setup ## Strike a whole stack under load and count; SECONDS=300 SEED=7
	$(BIN)/python -m tests.chaos $(addprefix --seconds ,$(SECONDS)) $(addprefix --seed ,$(SEED))

clean: ## Remove the virtual environments and the state directory
	rm -rf $(VENV) $(PEERS) $(STATE)
