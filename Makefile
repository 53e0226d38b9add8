# Every target does its own set-up, in .venv, from nothing but Python 3.11 (or newer) with venv. `make` lists the targets.

PYTHON ?= python3
DEMO   := examples/demo/flights.pipeline.json
REPORT := examples/demo/out/report.html
JOBS   ?= 2
BIN    := .venv/bin

# An embedded Ray, for us alone.
export RAY_USAGE_STATS_ENABLED = 0
# pyright comes from the lock: that a newer one exists is no news, and node comes with it.
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test chaos llama rabbitmq check check-style check-files check-layers check-types check-wheel bench fmt lock clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

env: .venv/.dev ## Set up .venv with everything that demo, tests and checks need

demo: .venv/.demo ## Run the demo pipeline on an embedded Ray and say where its report is
	$(BIN)/fm run $(DEMO) --sample --on ray
	@test -f $(REPORT) && echo "The report: $(REPORT)"

test: .venv/.dev ## Run all tests: those without Ray in JOBS processes, then those that use it (PYTEST_ARGS=…)
	JOBS=$(JOBS) scripts/test $(BIN)/python $(PYTEST_ARGS)

chaos: .venv/.dev ## Kill runs a thousand times and more, on SQLite and PostgreSQL (CHAOS_KILLS=1000 CHAOS_SEED=1)
	CHAOS_KILLS=$${CHAOS_KILLS:-1000} $(BIN)/python -m pytest -s -q tests/chaos

llama: .venv/.llama ## Compile and install llama.cpp, for the tests marked llama (once: the wheel is kept in the cache directory)

rabbitmq: ## Unpack RabbitMQ, for the tests marked amqp (once: it is kept in the cache directory; Debian and its kin)
	scripts/install_rabbitmq

check: check-style check-files check-layers check-types check-wheel ## Style, types, layers, lock and generated files, wheel: all that CI checks

check-style: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-files: .venv/.dev
	$(BIN)/python scripts/check_lock.py
	$(BIN)/python scripts/generate.py --check

check-layers: .venv/.dev
	$(BIN)/lint-imports --no-logo --no-cache

check-types: .venv/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

check-wheel: .venv/.dev
	$(BIN)/python scripts/check_wheel.py

bench: .venv/.demo ## Measure the engine beside its references (BENCH_ARGS="--executor ray --json")
	$(BIN)/python -m benchmarks.engine $(BENCH_ARGS)

fmt: .venv/.dev ## Format, fix what ruff can fix, and regenerate generated files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python scripts/generate.py

lock: .venv/.pip ## Resolve pyproject.toml into requirements/*.txt (LOCK_ARGS=--upgrade moves to newer versions)
	scripts/lock $(LOCK_ARGS)
	$(PYTHON) scripts/check_lock.py

clean: ## Remove .venv and everything that tools leave behind
	rm -rf .venv dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. A stamp is newer than what it was made from, so that a second call does nothing.

.venv/.pip: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "FlowMason needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version`. Say: make PYTHON=python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@scripts/install .venv requirements/uv.txt
	@touch $@

.venv/.demo: .venv/.pip requirements/demo.txt pyproject.toml scripts/install
	scripts/install .venv requirements/demo.txt --editable .
	@touch $@

.venv/.llama: .venv/.dev requirements/llama.txt scripts/install_llama
	scripts/install_llama .venv
	@touch $@

.venv/.dev: .venv/.pip requirements/dev.txt pyproject.toml scripts/install
	scripts/install .venv requirements/dev.txt --editable .
	@touch $@
