# What a person does with a checkout. `make` alone lists it; everything installs what it needs into .venv first.
#
# Variables: PYTHON       the interpreter (3.11 or newer) that .venv is made with
#            TORCH_INDEX  an index of torch's CPU-only wheels; without it torch comes from pip's own index, with CUDA on Linux
#            ARGS         further arguments of the command behind demo, test, fuzz, bench, bench-quality and chaos
#            BENCH        the benchmarks that bench runs; all unless given
#            DATA         the folder in which bench-quality looks for tables, payments and images
#            VENV         where the environment is made

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format check docs fuzz bench bench-quality chaos clean distclean

VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
ARGS ?=
DATA ?= ../shared/data
BENCH = $(patsubst benchmarks/%.py,%,$(shell grep -l '^if __name__' benchmarks/*.py))

OLD_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(OLD_ENOUGH)' >/dev/null 2>&1 && echo "$$python" && break; done)
endif

FIND_KAFKA := from tests.kafka import broker; missing = broker.why_not(); \
	print(f"tests/kafka will be skipped: {missing}" if missing else f"Apache Kafka {broker.kafka_version()} in {broker.jars()}")

help: ## List what make can do here
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-demo ## Install, then simulate, train, stream and alert in one go (no Docker, no JVM, no broker to set up)
	@$(BIN)/offbeat demo $(ARGS)

test: $(VENV)/.installed-dev ## Install, then run all tests; those on a real Kafka need Java 17 and Maven, or are skipped
	@echo "Looking for Apache Kafka; the first time it is fetched from Maven Central"
	-@$(BIN)/python -c '$(FIND_KAFKA)'
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-dev ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed-dev ## Format the code and mend what ruff can mend by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint test ## Everything that must pass before a change lands

docs: $(VENV)/.installed-dev ## Rewrite README's tables and the alert's schema from the code
	@$(BIN)/python -m worker.docs

fuzz: $(VENV)/.installed-fuzz ## Throw bytes at all that reads input from outside, a minute each: make fuzz ARGS="--seconds 600 decoder"
	@$(BIN)/python -m tests.fuzz.coverage_guided $(ARGS)

bench: $(VENV)/.installed-dev ## Measure speed and quality, or only some of it: make bench BENCH=worker_throughput
	@for name in $(BENCH); do echo "benchmarks.$$name"; \
		$(BIN)/python -m "benchmarks.$$name" --json "benchmarks/results/$$name.json" $(ARGS) || exit 1; done

bench-quality: $(VENV)/.installed-dev ## Rank offbeat beside its anchors, hours; goes on where it was stopped: make bench-quality ARGS="--jobs 2"
	@$(BIN)/python -m benchmarks.quality --data "$(DATA)" --json benchmarks/results/quality/quality.json $(ARGS)

chaos: $(VENV)/.installed-dev ## Inject faults into workers and brokers and check every record: make chaos ARGS="--seed 1 --times 20 --records 1000000"
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

clean: ## Remove caches and build products; .venv stays
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage ./*.egg-info
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv too
	@rm -rf $(VENV)

$(VENV)/.created:
	@"$(PYTHON)" -c '$(OLD_ENOUGH)' 2>/dev/null || { \
		echo "offbeat needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is not that,there is none on PATH) (python3: $$(python3 --version 2>&1 || true))."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; } >&2
	@echo "Creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

# One stamp for each extra; a changed pyproject.toml installs again. dev contains demo.
$(VENV)/.installed-%: pyproject.toml | $(VENV)/.created
	@echo "Installing offbeat[$*] into $(VENV); the first time downloads PyTorch and takes minutes"
ifneq ($(TORCH_INDEX),)
	@$(BIN)/python -m pip install --index-url "$(TORCH_INDEX)" torch torchvision
endif
	@$(BIN)/python -m pip install --editable '.[$*]'
	@touch $@ $(if $(filter dev,$*),$(VENV)/.installed-demo)
