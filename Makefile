# One word per job. Each does the set-up it needs: a fresh machine wants python3 (3.11 or newer) and nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= 2

.PHONY: help demo test check format bench lock clean
help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/: .*##/  /'

# The environment is made again only when the lock or the package's own list of needs changes.
$(READY): requirements.lock constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Luthier needs Python 3.11 or newer.")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -r requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

demo: $(READY)   ## the whole job on the bundled model and sample, in minutes
	$(BIN)/luthier demo $(ARGS)

# One torch thread per worker: two workers that each take both cores are many times slower than one.
test: $(READY)   ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: $(READY)  ## style, types, floors, house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -p no:xdist tests/test_house.py

format: $(READY) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## what the engine's tricks bring (leave the machine alone meanwhile)
	$(BIN)/python bench/ablation.py
	@echo "The other benches, and the rivals: docs/performance.md says how"

lock: $(READY)   ## write requirements.lock from the present environment
	$(BIN)/python scripts/lock.py

clean:           ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
