# Two commands for a new user: `make quickstart`, `make test`.
# PYTHON names the interpreter that the virtual environments are made from.

PYTHON ?= python3
VENV ?= .venv
INTEROP_VENV ?= .venv-interop
BIN := $(VENV)/bin
PYTEST := bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup quickstart lint test test-fast test-interop test-docs test-newest docs clean

setup: $(VENV)/.installed

$(VENV)/.installed: EXTRA := test
$(INTEROP_VENV)/.installed: EXTRA := test-interop
.venv-docs/.installed: EXTRA := docs

# Installed anew only when what is to be installed has changed.
%/.installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version 2>&1) is too old: Python 3.11" \
	    "or newer is needed; name one with 'make PYTHON=python3.11 ...'" \
	    >&2; exit 2; }
	@test -x $*/bin/python || $(PYTHON) -m venv $*
	@echo "Installing the project into $* (1 to 5 minutes) ..."
	@$*/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$(EXTRA)]'
	@touch $@

quickstart: setup
	@$(BIN)/stepdistill quickstart $(ARGS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Under 90 seconds on 2 cores.
test-fast: lint
	@$(VENV)/$(PYTEST) -m fast $(ARGS)

test: lint
	@$(VENV)/$(PYTEST) -m 'not interop and not pages' $(ARGS)

# What needs torch, transformers, libtpu and the like, or Chromium on PATH, and
# what installs the project in environments of its own.
test-interop: $(INTEROP_VENV)/.installed
	@$(INTEROP_VENV)/$(PYTEST) -m interop $(ARGS)

# The commands of the README and of docs/*.md, page by page.
test-docs: $(INTEROP_VENV)/.installed
	@$(INTEROP_VENV)/bin/python -m pytest tests/docs_test.py $(ARGS)

# The site of docs/, in the folder site/; it needs no network to be read.
docs: .venv-docs/.installed
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict --quiet
	@echo "wrote site/; to read it, search too:" \
	  "python3 -m http.server --directory site 8000"

# The newest versions that setup.py allows: `make test-newest PYTHON=python3.13`.
test-newest:
	@test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	@.venv-newest/bin/python -m pip install --quiet --upgrade \
	  --upgrade-strategy eager --editable '.[test]'
	@.venv-newest/bin/python -m pip freeze | grep -iE \
	  '^(jax|jaxlib|flax|optax|orbax-checkpoint|seqio|tensorflow|numpy)=='
	@.venv-newest/$(PYTEST) -m 'not interop and not pages' $(ARGS)

clean:
	rm -rf $(VENV) $(INTEROP_VENV) .venv-newest .venv-docs site build dist *.egg-info
