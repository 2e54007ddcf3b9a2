# Everything runs in a virtual environment of its own (VENV), made on first use. PYTHON: 3.11 to 3.13.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/

.PHONY: help demo test check format bench soak install clean
help:
	@echo "make demo    set up, run the exchange for 12 s, print a summary"
	@echo "make test    run the tests"
	@echo "make check   lint and type-check"
	@echo "make format  format the code"
	@echo "make bench   measure it beside its peers on this machine; a report in bench-report"
	@echo "make soak    500 kills under load and 1,000 losses of power: is anything lost?"
	@echo "make clean   remove the virtual environment and caches"

demo: $(VENV)/.installed
	cd examples && $(abspath $(VENV))/bin/python -m exchange.demo

# One worker a processor, but few: most tests start servers, which want processors of their own.
test: $(VENV)/.installed-dev
	$(RUN)python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(VENV)/.installed-dev
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy

format: $(VENV)/.installed-dev
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

bench: $(VENV)/.installed
	$(RUN)python -m bench
	$(RUN)python bench/path.py
	$(RUN)python bench/engine.py
	$(RUN)python bench/pages_per_transaction.py
	$(RUN)python bench/bulk.py

soak: $(VENV)/.installed
	$(RUN)python bench/kills.py --progress
	$(RUN)python bench/crash_points.py

install: $(VENV)/.installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Diptych needs Python 3.11 to 3.13; say which with make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml client/pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN)python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e client -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN)python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
