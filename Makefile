.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PIP := $(BIN)/pip install --quiet -c constraints.txt
READY := $(VENV)/.ready
SERVE ?= runs/demo/serve

help:  ## show this help
	@grep -hE '^[a-z_-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv with everything the demo, the tests and the benchmarks need

# torch comes first and alone: resolved together with the rest, it would bring its CUDA build.
# nvidia-pytriton carries the tritonserver binary, its Python dependencies are not used; RecTools caps versions that it
# runs well with.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[train,serve,dev,bench]'
	$(PIP) --no-deps nvidia-pytriton rectools
	@touch $@

demo: setup  ## MovieLens 100K: prepare, train, evaluate, export, serve on Triton, recommend
	$(BIN)/python -m serving demo

serve: setup  ## everything that serves, from what `make demo` exported (or SERVE=folder): an HTTP door on port 8080
	$(BIN)/python -m serving up $(SERVE)

test: check  ## lint, types and the whole test suite
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: setup  ## the tests that train nothing and start no stack, in a few minutes
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not slow'

check: setup  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  ## build the documentation in build/site, with generated references
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site     build/site/index.html"

format: setup  ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and everything that runs wrote
	rm -rf $(VENV) build runs multirun wandb

.PHONY: help setup demo serve test test-fast check docs format clean
