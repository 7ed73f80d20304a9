# `make demo` and `make test` each do all their own set-up: a virtual environment with pinned packages in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# `make gpu` takes the Python that is there, as that has the torch of the GPU's driver.
GPU_PYTHON ?= python3
OUT ?= runs/gpu

.PHONY: help setup demo test quick gpu check format clean
help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(READY): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[dev]'
	touch $@

setup: $(READY)  ## a virtual environment with everything in .venv

demo: $(READY)  ## invented faces -> shards -> training -> report, on this CPU, in a few minutes
	$(BIN)/distgan demo --out runs/demo

test: $(READY)  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

quick: $(READY)  ## the tests without those that take long: no processes, no hosts
	$(BIN)/python -m pytest -n 2 -m "not slow"

gpu:  ## all that has to be known of this machine's GPU, in under 9 minutes, into OUT=runs/gpu
	PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(GPU_PYTHON) -m distgan bench gpu --out $(OUT)

check: $(READY)  ## linter, formatter and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## put the code into the formatter's shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment and caches (never runs or shards)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
