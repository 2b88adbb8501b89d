# Two commands: `make demo` and `make test`. Both set up what they need and can be run again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUTPUT ?= runs/demo
MINUTES ?= 5
PYTEST_ARGS ?=
# Tests start hundreds of processes; each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
CAPABILITY ?= default
THREADS ?= 1
# Two tests at a time, whole modules on one worker: their fixtures are made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
FAST := tests/data tests/losses tests/metrics tests/models tests/optim
RANKS := losses metrics terms collectives ddp_module joint_ranks modality_ranks pair_ranks text_exchange
NUMERIC := tests/losses tests/metrics tests/models tests/optim tests/processes/test_tile_kernels.py \
    $(RANKS:%=tests/distributed/test_%.py) --ignore tests/models/checkpoints
CRASHES := tests/faults/test_kill.py tests/faults/test_killed_run.py tests/sweeps/test_resume.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-crash test-all test-numeric lowest check lint types imports docs clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed-demo: pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" bash tools/setup.sh "$(VENV)" demo

$(VENV)/.installed-test: pyproject.toml tools/setup.sh
	@PYTHON="$(PYTHON)" bash tools/setup.sh "$(VENV)" test

setup: $(VENV)/.installed-test ## Create .venv with everything that development needs

demo: $(VENV)/.installed-demo ## Pretrain on emoji for MINUTES (5), evaluate, write OUTPUT/report.html
	@$(BIN)/clipkit demo --output "$(OUTPUT)" --minutes "$(MINUTES)"

test: $(VENV)/.installed-test ## Run the tests but those that kill, fuzz and repeat runs for minutes
	@echo "Running the tests (make test-fast for the fast ones)"
	@$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-test ## Run the tests without a trainer and without processes
	@$(PYTEST) $(FAST) $(PYTEST_ARGS)

test-crash: $(VENV)/.installed-test ## Run the tests of runs that are killed and resumed, a part of the long ones
	@$(PYTEST) $(CRASHES) $(PYTEST_ARGS)

test-all: $(VENV)/.installed-test ## Run all tests, and list the slowest
	@$(PYTEST) --durations=25 $(PYTEST_ARGS)

test-numeric: $(VENV)/.installed-test ## Run the numeric tests as another CPU: CAPABILITY (default, avx2, avx512), THREADS (1)
	@echo "Running $(NUMERIC) with CPU capability $(CAPABILITY) and $(THREADS) thread(s)"
	@ATEN_CPU_CAPABILITY=$(CAPABILITY) OMP_NUM_THREADS=$(THREADS) $(PYTEST) $(NUMERIC) $(PYTEST_ARGS)

lowest: ## Run the fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest (3 GB)
	@PYTHON="$(PYTHON)" PYTEST_ARGS="$(PYTEST_ARGS)" bash tools/lowest.sh .venv-lowest

lint: $(VENV)/.installed-test ## ruff: lint and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed-test ## mypy: the package strictly, the tests with what they call
	@$(BIN)/mypy

imports: $(VENV)/.installed-test ## The direction of imports
	@$(BIN)/lint-imports --no-logo

check: lint types imports test test-crash ## What CI runs on every change; make test-all has all tests

docs: $(VENV)/.installed-test ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove what can be made again (not runs/)
	rm -rf $(VENV) .venv-lowest build dist site .mypy_cache .ruff_cache .pytest_cache
