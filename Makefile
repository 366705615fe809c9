# make demo and make test are all that a newcomer needs; each makes its own .venv. make help lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Kernel rings need root. Without it, run inside user, network and mount namespaces of our own (see build/rootly).
ROOTLY := build/rootly

.PHONY: help demo test unit check bench native sanitize fuzz lock clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

$(VENV)/run: build/requirements.txt pyproject.toml build/venv
	@build/venv $(PYTHON) $(VENV) build/requirements.txt
	@touch $@

$(VENV)/dev: build/requirements-dev.txt pyproject.toml build/venv
	@build/venv $(PYTHON) $(VENV) build/requirements-dev.txt
	@touch $@ $(VENV)/run

native: $(VENV)/run ## compile the native lane, if there is a compiler (the targets below do it)
	@build/native $(BIN)/python

demo: native ## the bookstore in network namespaces, with a live table (NODES=2; STEP=N HOLD=1 to stop and try things)
	@build/need ip curl
	@$(ROOTLY) $(BIN)/edgemesh demo $(if $(STEP),--step $(STEP)) $(if $(HOLD),--hold) $(if $(NODES),--nodes $(NODES))

test: $(VENV)/dev native ## all rings of tests; kernel rings too
	@build/need ip nft curl
	@$(ROOTLY) $(BIN)/python -m pytest -q $(ARGS)

unit: $(VENV)/dev native ## only the tests that need neither root nor namespaces
	@$(BIN)/python -m pytest -q tests/policy tests/nodeproxy tests/agent tests/journeys $(ARGS)

check: $(VENV)/dev ## style, types, direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(VENV)/dev native ## measure beside nginx and HAProxy; writes BENCHMARKS.md
	@build/need ip nginx haproxy wrk nghttpx openssl
	@$(ROOTLY) $(BIN)/python tests/bench/bench.py
	@$(ROOTLY) $(BIN)/python tests/bench/bench_nodes.py
	@$(ROOTLY) $(BIN)/python tests/bench/bench_lane.py
	@$(ROOTLY) $(BIN)/python tests/bench/bench_grpc.py

sanitize: $(VENV)/dev ## the native lane's tests with address and undefined-behaviour sanitizers, and a million hostile inputs
	@build/sanitize $(BIN)/python

fuzz: ## ten million hostile inputs to the native lane, with sanitizers (COUNT=N SEED=N)
	@build/fuzz $(or $(COUNT),10000000) $(or $(SEED),1)

lock: $(VENV)/dev ## resolve pyproject.toml's ranges to exact versions in build/requirements*.txt
	@build/lock $(BIN)/python

clean: ## remove what make made
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find agent nodeproxy policy tests -name __pycache__ -type d -prune -exec rm -rf {} +
