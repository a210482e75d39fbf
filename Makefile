.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PIP := $(BIN)/pip install --quiet
READY := $(VENV)/.ready
SERVE ?= runs/demo/serve

help:  ## show this help
	@grep -hE '^[a-z_-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv with everything the demo, the tests and the benchmarks need

# Exactly these files, and nothing that a resolver would add: constraints.txt is the whole environment. Torch comes by its
# version alone, since which of its builds fits depends on the machine. nvidia-pytriton carries the tritonserver binary.
$(READY): pyproject.toml constraints.txt .ci/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --require-hashes -r .ci/requirements.txt
	$(PIP) -c constraints.txt torch
	$(PIP) --no-deps -e .
	@touch $@

demo: setup  ## MovieLens 100K: prepare, train, evaluate, export, serve on Triton, recommend
	$(BIN)/python -m serving demo

serve: setup  ## everything that serves, from what `make demo` exported (or SERVE=folder): an HTTP door on port 8080
	$(BIN)/python -m serving up $(SERVE)

test: check  ## lint, types and the whole test suite
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: setup  ## the tests that train nothing and start no stack, in a few minutes
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not slow'

check: setup  ## lint, types and unsafe calls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit -q -c pyproject.toml -r recsys serving train.py export.py

sbom: setup  ## a bill of materials of the environment (CycloneDX), build/sbom.json
	@mkdir -p build
	$(BIN)/cyclonedx-py environment $(BIN)/python --output-reproducible --of JSON -o build/sbom.json
	@echo "sbom     build/sbom.json"

hashes:  ## .ci/requirements.txt anew, after a pin of constraints.txt was changed
	$(BIN)/python .ci/hash_constraints.py

docs: setup  ## build the documentation in build/site, with generated references
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site     build/site/index.html"

format: setup  ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and everything that runs wrote
	rm -rf $(VENV) build runs multirun wandb

.PHONY: help setup demo serve test test-fast check sbom hashes docs format clean
