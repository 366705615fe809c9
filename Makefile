# make demo and make test are all that a newcomer needs; each makes its own .venv. make help lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAMILIES := x86_64 aarch64 riscv64 loong64
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' agent/__init__.py)
FILE = dist/edgemesh-$(VERSION)-linux-
# Kernel rings need root. Without it, run inside user, network and mount namespaces of our own (see build/rootly).
ROOTLY := build/rootly

.PHONY: help demo test unit check house soak bench native reference docs sanitize coverage fuzz lock clean dist dist-all $(addprefix dist-,$(FAMILIES)) smoke $(addprefix smoke-,$(FAMILIES)) smoke-bundle box netns-file reproducible kube kube-programs gateway-conformance image image-checkout
.DEFAULT_GOAL := help

help: ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 19

$(VENV)/run: build/requirements.txt pyproject.toml build/venv
	@build/venv $(PYTHON) $(VENV) build/requirements.txt
	@touch $@

$(VENV)/dev: build/requirements-dev.txt pyproject.toml build/venv
	@build/venv $(PYTHON) $(VENV) build/requirements-dev.txt
	@touch $@ $(VENV)/run

$(VENV)/soak: $(VENV)/dev build/requirements-soak.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes -r build/requirements-soak.txt
	@touch $@

$(VENV)/docs: $(VENV)/dev build/requirements-docs.txt
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes -r build/requirements-docs.txt
	@touch $@

native: $(VENV)/run ## compile the native lane, if there is a compiler (the targets below do it)
	@build/native $(BIN)/python

demo: native ## the bookstore in network namespaces, with a live table (NODES=2; STEP=N HOLD=1 to stop and try things; CHAPTER=list)
	@build/need ip curl
	@$(ROOTLY) $(BIN)/edgemesh demo $(if $(STEP),--step $(STEP)) $(if $(HOLD),--hold) $(if $(NODES),--nodes $(NODES)) $(if $(CHAPTER),--chapter $(CHAPTER))

test: $(VENV)/dev native ## all rings of tests; kernel rings too
	@build/need ip nft curl
	@$(ROOTLY) $(BIN)/python -m pytest -q $(ARGS)

unit: $(VENV)/dev native ## only the tests that need neither root nor namespaces
	@$(BIN)/python -m pytest -q -p randomly tests/policy tests/nodeproxy tests/agent tests/journeys $(ARGS)

check: $(VENV)/dev ## style, types, direction of imports, pages made from code, maps, mirrored tests, what documents name
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python build/reference --check
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_house.py tests/readme/test_words.py

house: $(VENV)/dev ## how it is layered: files, folders, imports upward, circles
	@$(BIN)/python -m tests.house

reference: $(VENV)/run ## write docs/reference, docs/schemas and docs/edgemesh.1 from the code
	@$(BIN)/python build/reference

docs: $(VENV)/docs ## the documentation as a site in dist/docs, to be opened from the disk; a link that leads nowhere fails it
	@$(BIN)/python build/reference --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean --config-file build/mkdocs.yml
	@$(BIN)/python build/site_check dist/docs

soak: $(VENV)/soak native ## three quarters of an hour of calls that outlast every deadline, while everything changes (SOAK_MINUTES=2: a short one, five minutes)
	@build/need ip nft curl
	@$(ROOTLY) $(BIN)/python -m tests.soak

bench: $(VENV)/dev native ## measure beside nginx and HAProxy; writes BENCHMARKS.md
	@build/need ip nginx haproxy wrk nghttpx openssl
	@$(ROOTLY) $(BIN)/python tests/bench/bench.py
	@$(ROOTLY) $(BIN)/python tests/bench/bench_nodes.py
	@$(ROOTLY) $(BIN)/python tests/bench/bench_lane.py
	@$(ROOTLY) $(BIN)/python tests/bench/bench_grpc.py

hostile: $(VENV)/dev native ## floods against the installed daemon, with figures of each (EDGEMESH_HOSTILE_SECONDS=10 each)
	@build/need ip nft curl
	@$(ROOTLY) $(BIN)/python -m pytest -q -s -p no:randomly --timeout=600 tests/hostile $(ARGS)

kube: $(VENV)/dev native ## the tests on a real cluster of two nodes (EDGEMESH_KUBECONFIG=FILE: on another one); needs root
	@$(BIN)/python -m pytest -q tests/kube $(ARGS)

kube-programs: ## build what that cluster runs, outside the checkout; once, 20 minutes, and it needs Go 1.26
	@tests/kube/cluster/programs

gateway-conformance: $(VENV)/dev native ## the Gateway API project's own suite on a cluster of two nodes (ARGS='MESH-HTTP --strict 25'); needs root and Go 1.26
	@tests/kube/gateway/programs
	@$(BIN)/python -m tests.kube.gateway.conformance $(ARGS)

sanitize: $(VENV)/dev ## the native lane's tests with address and undefined-behaviour sanitizers, and a million hostile inputs
	@build/sanitize $(BIN)/python

coverage: $(VENV)/dev ## lines and branches that the unit rings and journeys run, in C and in Python; pages in dist/coverage
	@build/coverage $(BIN)/python $(ARGS)

fuzz: ## ten million hostile inputs to the native lane, with sanitizers (COUNT=N SEED=N)
	@build/fuzz $(or $(COUNT),10000000) $(or $(SEED),1)

dist: dist-x86_64 ## one file for x86_64, in dist/; dist-FAMILY for another, dist-all for all four (FORM=bundle: bundles only)
	@:

dist-all: $(VENV)/run ## one file for each CPU family
	@PYTHON=$(BIN)/python build/dist $(FAMILIES)

# With the pip of .venv: a new Debian's python3 has none.
$(addprefix dist-,$(FAMILIES)): dist-%: $(VENV)/run
	@PYTHON=$(BIN)/python build/dist $*

image: $(VENV)/run ## an OCI image archive, dist/edgemesh-VERSION-image.tar, of the files that dist made (all families in one index)
	@$(BIN)/python build/image

image-checkout: native ## the same of this checkout and this machine's Python, in seconds, to try a change on a cluster
	@$(BIN)/python build/image --checkout

smoke: smoke-x86_64 smoke-bundle box ## build the one file for x86_64, in both forms, and try it (smoke-FAMILY: another, emulated)
	@:

smoke-bundle: $(VENV)/dev
	@FORM=bundle PYTHON=$(BIN)/python build/dist x86_64
	@EDGEMESH_FILE=$(FILE)x86_64-bundle $(ROOTLY) $(BIN)/python -m pytest -q tests/smoke $(ARGS)

box: $(VENV)/dev dist-x86_64 ## the one file as a service, on a box with systemd as PID 1; needs root and systemd
	@EDGEMESH_FILE=$(FILE)x86_64 $(BIN)/python -m pytest -q tests/systemd tests/readme/test_boxes.py tests/readme/test_howto_boxes.py $(ARGS)

# An emulated family needs Linux 6.7, whose user namespaces have a binfmt_misc of their own.
$(addprefix smoke-,$(FAMILIES)): smoke-%: $(VENV)/dev dist-%
	@EDGEMESH_FILE=$(FILE)$* EDGEMESH_EMULATOR="$$(build/inputs fetch tools)/usr/bin/qemu-$(subst loong64,loongarch64,$*)" \
	  $(ROOTLY) $(BIN)/python -m pytest -q tests/smoke $(ARGS)

reproducible: $(VENV)/run ## does the same source give the same file, elsewhere and with nothing cached? (FAMILY=x86_64)
	@PYTHON=$(BIN)/python build/reproducible $(or $(FAMILY),x86_64)

netns-file: $(VENV)/dev native dist-x86_64 ## the netns ring with the one file instead of the source tree
	@build/need ip nft curl
	@EDGEMESH_FILE=$(FILE)x86_64 $(ROOTLY) $(BIN)/python -m pytest -q tests/netns $(ARGS)

lock: $(VENV)/dev ## resolve pyproject.toml's ranges to exact versions in build/requirements*.txt
	@build/lock $(BIN)/python

clean: ## remove what make made
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find agent nodeproxy policy tests -name __pycache__ -type d -prune -exec rm -rf {} +
