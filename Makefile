# Every target works first on a fresh clone. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
STAMPS := .make
NODE := tests/support/oidc_provider tests/support/accessibility
INPUTS := pyproject.toml tools/build_hook.py $(shell find protos -name '*.proto' 2>/dev/null)
# The long ones first, so that two workers end together. A file is run by one worker, its servers and ports are its own.
TESTS := tests/e2e tests/integration tests/property tests/deploy tests/conformance tests/contract tests/fuzz tests/unit tests/architecture
DEMO ?=
BENCH ?=
# Progress of downloads where somebody is looking, plain lines in a log.
QUIET := $(shell test -t 2 || echo --quiet)
FUZZ_SECONDS ?= 60

.PHONY: help install run test check lint types contracts generate format system bench latency fuzz envoy-age clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

$(UV):
	@echo "[1/3] making .venv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Doorward needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv

$(STAMPS)/install: $(INPUTS) | $(UV)
	@echo "[2/3] installing the run-time set (some 90 MB the first time) and generating the contracts"
	@$(UV) pip install $(QUIET) --compile-bytecode -e '.[all]'
	@$(BIN)/python -m compileall -q src services
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: $(STAMPS)/install $(NODE:=/package-lock.json)
	@echo "installing what the tests need"
	@$(UV) pip install $(QUIET) --group test
	@for folder in $(NODE); do npm ci --silent --no-fund --no-audit --prefix $$folder; done
# The scripts of bench/ and tests/fuzz/ import tests.support, also when they are started by hand.
	@pwd > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/doorward_tests.pth"
	@touch $@

$(STAMPS)/check: $(STAMPS)/install
	@$(UV) pip install $(QUIET) --group check --group test
	@touch $@

install: $(STAMPS)/install ## prepare .venv with the run-time set

generate: $(STAMPS)/install ## write doorward.api and doorward.envoy_api again if protos/ changed
	@$(BIN)/python tools/build_hook.py --check || $(UV) pip install --quiet --no-deps -e .

run: install generate ## start the complete demo on loopback; DEMO='--port N --data DIR'
	@echo "[3/3] starting the demo"
	@exec $(BIN)/doorward demo $(DEMO)

system: ## install the servers and the browser that the tests drive (Debian)
	@tools/install_test_tools.sh

test: $(STAMPS)/test generate system ## run every test; T=path runs a part
ifdef T
	@$(BIN)/python -m pytest $(T)
else
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)
endif

lint: $(STAMPS)/check generate
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/shellcheck .ci/run tools/*.sh
	@cd protos && ../$(BIN)/buf lint

types: $(STAMPS)/check generate
	@$(BIN)/mypy

contracts: $(STAMPS)/check generate
	@$(BIN)/lint-imports --no-cache

check: lint types contracts test ## lint, types, import contracts and every test

format: $(STAMPS)/check ## write the house's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet .

bench: $(STAMPS)/test generate system ## measure everything, some 20 minutes: bench/results/figures.json and figures.svg; BENCH='--only NAME …'
	@$(UV) pip install --quiet --group bench
	@$(BIN)/python bench/all.py $(BENCH)

latency: $(STAMPS)/test generate system ## latency at a fixed rate for half a minute; nothing fails for being slow
	@$(BIN)/python bench/open_loop.py --seconds 4

fuzz: $(STAMPS)/test generate ## look for texts and values that break the policy engine or an HTTP/2 speaker, and for checks that get a wrong yes; FUZZ_SECONDS=60
	@$(UV) pip install --quiet --group fuzz
	@mkdir -p $(STAMPS)/corpus
	@$(BIN)/python tests/fuzz/fuzz_policy.py $(STAMPS)/corpus -max_total_time=$(FUZZ_SECONDS)
	@mkdir -p $(STAMPS)/corpus-check
	@$(BIN)/python tests/fuzz/fuzz_check.py $(STAMPS)/corpus-check -max_total_time=$(FUZZ_SECONDS)
	@mkdir -p $(STAMPS)/corpus-http2
	@$(BIN)/python tests/fuzz/fuzz_http2.py $(STAMPS)/corpus-http2 -max_total_time=$(FUZZ_SECONDS)

envoy-age: $(STAMPS)/install ## fail when Envoy has stayed behind a release for two weeks
	@$(BIN)/python tools/check_envoy_age.py

clean: ## remove what the other targets made
	@rm -rf .venv $(STAMPS) $(NODE:=/node_modules)
