PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup quickstart test slow lint reference audit reliability benchmark clean

setup: .venv/.done

# torch first and by its pinned version, so that no later package pulls in another build of it.
.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quickstart,dev]'
	touch $@

quickstart: setup
	$(BIN)/pruneonce quickstart --output quickstart

# A process a core: the tests train tiny models, on one thread each. Those of a file share what they were made from.
test: setup lint
	$(BIN)/python -m pytest -m 'not slow' --numprocesses auto --dist loadfile --no-loadscope-reorder

slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The page of all keys, from the descriptions of the fields; a test compares it.
reference: setup
	$(BIN)/pruneonce recipes keys --markdown > docs/recipe-reference.md

# What is known against the versions installed; needs `pip install pip-audit`, and its database over the network.
audit: setup
	@command -v $(BIN)/pip-audit > /dev/null || { echo "pip-audit is not installed: $(BIN)/pip install pip-audit"; exit 1; }
	@$(BIN)/pip-audit --skip-editable || { echo "vulnerable packages are named above; if none is, the database could not be reached and nothing was checked"; exit 1; }

benchmark: setup
	$(BIN)/python benchmarks/prune_once.py ../shared/data

# Hours: 50 kills and 100 000 damaged inputs. Both go on where they stopped.
reliability: setup
	$(BIN)/python benchmarks/reliability/kill.py --count 50
	$(BIN)/python benchmarks/reliability/fuzz.py --count 100000

clean:
	rm -rf .venv quickstart runs
