PYTHON ?= python3
BIN := .venv/bin
BEGAN := $(shell date +%s)

.PHONY: setup quickstart test slow clients lint docs reference audit reliability benchmark clean

setup: .venv/.done .venv/.runtime

# torch first and by its pinned version, so that no later package pulls in another build of it.
.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quickstart,dev,docs]'
	touch $@

# The runtime, built again when its kernels change; its Python is that of the source.
.venv/.runtime: .venv/.done runtime/pyproject.toml runtime/CMakeLists.txt $(wildcard runtime/kernels/* runtime/python/native/*)
	@missing=; command -v c++ > /dev/null || command -v $(CXX) > /dev/null || missing="C++ compiler: install g++"; \
	test -f "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
	  || missing="$${missing:-Python.h: install python3-dev}"; \
	if test -n "$$missing"; then \
	  export PRUNEONCE_RUNTIME_NO_KERNELS=1; \
	  echo "no $$missing for the fast engine; until then pruneonce-runtime is built without kernels"; \
	fi; \
	$(BIN)/pip install --quiet --editable ./runtime
	@touch $@

quickstart: setup
	$(BIN)/pruneonce quickstart --output quickstart

# A process a core: the tests train tiny models, on one thread each. Each process has files of its own, which share what
# they are made from, until one has no more and takes tests from another.
test: setup lint
	$(BIN)/python -m pytest -m 'not slow' --numprocesses auto --dist worksteal
	cd runtime && ../$(BIN)/python -m pytest -m 'not slow' --numprocesses auto --dist worksteal
	@echo "make test: $$(( $$(date +%s) - $(BEGAN) )) s"

slow: setup
	$(BIN)/python -m pytest -m slow
	cd runtime && ../$(BIN)/python -m pytest -m slow

# Libraries of other projects load our exports; downloads some 150 MB once.
clients: setup
	$(BIN)/python -m pytest -m clients

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd runtime && ../$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in build/docs. Warnings fail: a link or an anchor that leads nowhere is one. The source is the whole
# repository, so that links out of docs/ work on the site as on a code host (docs/conf.py).
docs: setup
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet --builder html --conf-dir docs . build/docs
	@echo build/docs/index.html

# The page of all keys, from the descriptions of the fields; a test compares it.
reference: setup
	$(BIN)/pruneonce recipes keys --markdown > docs/recipe-reference.md

# What is known against the versions installed; needs `pip install pip-audit`, and its database over the network.
audit: setup
	@command -v $(BIN)/pip-audit > /dev/null || { echo "pip-audit is not installed: $(BIN)/pip install pip-audit"; exit 1; }
	@$(BIN)/pip-audit --skip-editable || { echo "vulnerable packages are named above; if none is, the database could not be reached and nothing was checked"; exit 1; }

benchmark: setup
	$(BIN)/python -m benchmarks.prune_once ../shared/data

# Hours: 50 kills and twice 100 000 damaged inputs. All go on where they stopped.
reliability: setup
	$(BIN)/python -m benchmarks.reliability.kill --count 50
	$(BIN)/python -m benchmarks.reliability.fuzz --count 100000
	$(BIN)/python -m benchmarks.reliability.fuzz --count 100000 --of runtime

clean:
	rm -rf .venv build quickstart runs
