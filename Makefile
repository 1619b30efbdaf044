# `make chat` and `make test` set themselves up in .venv, once, and again when what it is built of changes.
#
#   make chat                                   chat about the current folder
#   make chat DIR=~/project MODEL=smollm2-135m  another folder, another model
#   make chat FILES="src/a.py src/b.py"         these files only
#   make chat PIP_ARGS="--index-url …"          options for pip, where packages come from somewhere else

VENV     ?= .venv
PYTHON   ?= python3
PIP_ARGS ?=
DIR      ?= .
MODEL    ?=
FILES    ?=
ARGS     ?=

BIN      := $(VENV)/bin
# what an installed ctx-lsp is made from, beside the Python that is used where it lies
BUILT_OF := pyproject.toml constraints.txt setup.py $(wildcard engine/native/src/*)
PIP      := $(BIN)/python -m pip --disable-pip-version-check
SOURCES  := engine ctx_lsp benchmarks tests
say       = @[ -t 1 ] && printf '\033[1m==> %s\033[0m\n' "$(1)" || printf '==> %s\n' "$(1)"

.DEFAULT_GOAL := help
.PHONY: help venv chat test test-answers lint types unit format protocol dist clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

chat: $(VENV)/.ready-chat ## chat about a folder (DIR, MODEL, FILES, ARGS)
	@$(BIN)/ctx-lsp chat --workspace "$(DIR)" $(if $(MODEL),--model "$(MODEL)") $(ARGS) $(FILES)

test: lint types unit ## lint, types and tests, as CI runs them

lint: $(VENV)/.ready-dev ## style (ruff)
	$(call say,ruff)
	@$(BIN)/ruff check .

types: $(VENV)/.ready-dev ## types (mypy, strict)
	$(call say,mypy)
	@$(BIN)/mypy

unit: $(VENV)/.ready-dev ## tests (pytest; ARGS="-k name")
	$(call say,pytest)
	@$(BIN)/python -m pytest $(ARGS)

test-answers: $(VENV)/.ready-dev ## fetch a model that gives real answers (491 MB) and test its answers
	$(call say,model)
	@$(BIN)/ctx-lsp models fetch "$$($(BIN)/python -c 'from engine.config import DEFAULT_MODEL; print(DEFAULT_MODEL)')"
	$(call say,pytest: answers; minutes)
	@$(BIN)/python -m pytest -v -m answers $(ARGS)

format: $(VENV)/.ready-dev ## put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

protocol: $(VENV)/.ready-dev ## the protocol's types for the editors, from ctx_lsp/protocol.py
	@$(BIN)/python -m ctx_lsp.generate

dist: $(VENV)/.ready-dev ## wheel and sdist in dist/
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist

clean: ## remove .venv, builds and caches
	@rm -rf $(VENV) build dist *.egg-info engine/native/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(VENV)/.ready-dev ## only set up .venv for development

$(VENV)/.ready-chat: $(BUILT_OF) | $(BIN)/python
	$(call say,Installing ctx-lsp into $(VENV). Once; PyTorch alone is some hundred MB.)
	@$(PIP) install $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: $(BUILT_OF) | $(BIN)/python
	$(call say,Installing ctx-lsp and its development tools into $(VENV). Once; PyTorch alone is some hundred MB.)
	@$(PIP) install $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.ready-chat

# Debian ships Python without venv and pip. CI may install them; on anyone's own machine that is theirs to decide.
$(BIN)/python:
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null && [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  printf '==> Installing python3-venv\n'; apt-get -qq update && apt-get -qq install -y --no-install-recommends python3 python3-venv; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "ctx-lsp needs Python 3.11 or newer as '$(PYTHON)' (name another with PYTHON=…; on Debian: apt install python3 python3-venv)." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(call say,Creating $(VENV))
	@$(PYTHON) -m venv --clear $(VENV)
