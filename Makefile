# Two commands for a new user: `make quickstart`, `make test`.
# PYTHON names the interpreter that the virtual environment is made from.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup quickstart test clean

setup: $(STAMP)

# Installed anew only when what is to be installed has changed.
$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version 2>&1) is too old: Python 3.11" \
	    "or newer is needed; name one with 'make PYTHON=python3.11 ...'" \
	    >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the project into $(VENV) (1 to 5 minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[test]'
	@touch $@

quickstart: setup
	@$(BIN)/stepdistill quickstart $(ARGS)

test: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info
