# Everything from set-up to result: `make demo`, `make test`. `make soak` runs the long tests,
# `make bench` the benchmarks, `make dist` builds wheel and sdist.

# The first of these that is installed; `make PYTHON=/path/to/python3.9 …` chooses another.
SUPPORTED := 3.11 3.10 3.9 3.8 3.12
IS_SUPPORTED := import sys; sys.exit(not (3, 8) <= sys.version_info < (3, 13))
PYTHON ?= $(shell for p in $(SUPPORTED:%=python%) python3 python; do \
	$$p -c '$(IS_SUPPORTED)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test soak bench dist clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py --output-dir out/demo

test: $(VENV)/installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

soak: $(VENV)/installed
	$(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks

dist: $(VENV)/installed
	$(PIP_INSTALL) build
	$(BIN)/python -m build --outdir dist

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "MXNet 1.9.1 needs Python 3.8 to 3.12, found $$(python3 --version 2>&1): install one of them and run 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@$(PYTHON) -c '$(IS_SUPPORTED)' || { echo "MXNet 1.9.1 needs Python 3.8 to 3.12, $(PYTHON) is $$($(PYTHON) --version 2>&1): run 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) -e '.[examples,onnx,notebook,tests]'
	touch $@

clean:
	rm -rf $(VENV) .tox out build dist *.egg-info
