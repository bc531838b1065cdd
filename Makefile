PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup quickstart test slow lint benchmark clean

setup: .venv/.done

# torch first and by its pinned version, so that no later package pulls in another build of it.
.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quickstart,dev]'
	touch $@

quickstart: setup
	$(BIN)/pruneonce quickstart --output quickstart

test: setup lint
	$(BIN)/python -m pytest -m 'not slow'

slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: setup
	$(BIN)/python benchmarks/prune_once.py ../shared/data

clean:
	rm -rf .venv quickstart runs
