# Needs nothing but Python >= 3.11 and make; everything else goes into $(VENV).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := $(VENV)-lowest
PACKAGED := $(VENV)-packaged

# A process takes whole files, whose tests share what is slow to make.
PYTEST := pytest -n auto --maxprocesses 8 --dist loadfile

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help venv demo test test-plain test-lowest package lint format docs digits bench integrations clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## Set up the virtual environment (VENV=.venv PYTHON=python3)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e ".[dev]"
	@touch $@

demo: $(STAMP) ## Train an agent on mazes with PPO and print the comparison
	$(BIN)/python train_agent.py --algo ppo

test: lint ## Lint, check types and run the tests
	$(BIN)/$(PYTEST)

test-plain: $(STAMP) ## Run the tests of sessions, envs and predictor without Numba
	$(BIN)/$(PYTEST) --without-numba tests/sessions tests/envs tests/predictor

test-lowest: $(LOWEST)/.installed ## Run the main tests with the lowest versions that are declared
	$(LOWEST)/bin/$(PYTEST) -W default::DeprecationWarning tests/envs tests/integrations tests/agents

$(LOWEST)/.installed: pyproject.toml .ci/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install -c .ci/lowest.txt -e ".[fast]" hypothesis pytest pytest-xdist
	@touch $@

package: $(STAMP) ## Build wheel and sdist, check them, and use the wheel by itself
	rm -rf dist $(PACKAGED)
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(PACKAGED)
	$(PACKAGED)/bin/pip install dist/*.whl
	cd dist && $(abspath $(PACKAGED))/bin/python -W error ../.ci/use_package.py

lint: $(STAMP) ## Lint, check format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Mend what the linter can, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## Build the documentation site into site/
	$(BIN)/mkdocs build --strict

$(VENV)/.docs: $(STAMP)
	$(BIN)/pip install -e ".[docs]"
	@touch $@

digits: $(STAMP) ## Retrain the digits network that ships with the package
	$(BIN)/python train_main.py --dataset digits --preset digits

bench: $(STAMP) ## Measure speed on this machine (BENCH=--quick for a first look)
	$(BIN)/python -m benchmarks.speed.run $(BENCH)

integrations: ## Train with other RL libraries, each in .venvs/ (LIBRARY=skrl for one)
	$(PYTHON) tests/integrations/run.py $(LIBRARY)

clean: ## Remove the virtual environment, caches and build folders; runs/ and data/ stay
	rm -rf $(VENV) $(LOWEST) $(PACKAGED) .venvs build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
