# Everything from set-up to result: `make demo`, `make test`.

# The newest Python that MXNet 1.9.1 runs on; `make PYTHON=/path/to/python3.9 …` chooses another.
SUPPORTED := 3.11 3.10 3.9 3.8
PYTHON ?= $(shell for p in $(SUPPORTED:%=python%) python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 8) <= sys.version_info < (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py --output-dir out/demo

test: $(VENV)/installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "MXNet 1.9.1 needs Python 3.8 to 3.11, found $$(python3 --version 2>&1): install one of them and run 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 8) <= sys.version_info < (3, 12))' || { echo "MXNet 1.9.1 needs Python 3.8 to 3.11, $(PYTHON) is $$($(PYTHON) --version 2>&1): run 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[examples,tests]'
	touch $@

clean:
	rm -rf $(VENV) out build dist *.egg-info
