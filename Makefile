# Two commands do everything on a machine with python3 and make:
#
#   make book     virtual environment, installation, every page executed, the book built
#   make test     the same environment, then the test suite
#
# `make help` lists the rest. Options: PYTHON=python3.12, VENV=path, PIP_ARGS="--extra-index-url …", WORKERS=4.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
WORKERS ?= 2
TEST_ARGS ?=
PORT ?= 8000

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INDEX := book/_build/html/index.html

# One thread a process: two threads beside a busy core cost 6 to 80 times the time. Parallelism is processes.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
# Python must come from the environment alone, and never ask a question.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH
unexport PYTHONHOME

.PHONY: help environment book chapter test lint format bench serve clean clean-all

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

environment: $(STAMP) ## make the virtual environment (the other commands do it when needed)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "PYTHON is '$(PYTHON)', which is not on this machine; name a Python of version 3.11 or later, as in: make book PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "PYTHON is $$($(PYTHON) -V 2>&1); it must be Python 3.11 or later, as in: make book PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) -m venv failed; on Debian and Ubuntu the package python3-venv is needed."; exit 2; }
	@echo "Installing into $(VENV) (a few minutes the first time) …"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS) --editable ".[book,test,dev,pretrained]"
	@touch $@

book: $(STAMP) ## execute every page that is stale, build the book, say how to open it
	$(BIN)/python book/build.py

chapter: $(STAMP) ## execute one page again: make chapter NAME=when_truncation_helps [LIVE=1]
	@test -n "$(NAME)" || { echo "NAME is empty; it must be the name of a page in book/, as in: make chapter NAME=when_truncation_helps"; exit 2; }
	$(BIN)/python book/build.py --chapter "$(NAME)" $(if $(filter-out 0,$(LIVE)),--live)

test: $(STAMP) ## run the test suite (TEST_ARGS="-k spectrum" to choose)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TEST_ARGS)

lint: $(STAMP) ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --disable-error-code import-untyped book/build.py book/pages.py book/generated_pages.py

format: $(STAMP) ## let ruff format and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## time what the project promises to be fast (tests/bench)
	$(BIN)/python -m pytest tests/bench --quiet -s $(TEST_ARGS)

serve: $(STAMP) ## show the built book at http://localhost:8000 (PORT=…)
	@test -f $(INDEX) || { echo "There is no $(INDEX); run make book first."; exit 2; }
	@echo "The book is at http://localhost:$(PORT)/ (Ctrl-C ends this)."
	$(BIN)/python -m http.server --directory book/_build/html --bind 127.0.0.1 $(PORT)

clean: ## remove what was built; the environment and local results stay
	rm -rf book/_build book/apidocs book/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov .coverage

clean-all: clean ## remove the environment of this checkout too
	rm -rf .venv *.egg-info
