# make review   the main job: a real comparison, its figures and its page
# make test     the test suite
# make check    lint, format, types, import contract
# make bench    speed, printed
# make validate accuracy against measured cases, printed (CASES=folder, default ../shared/cases)
# make wheel    builds the wheel and tries it in a clean environment

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CASES ?= ../shared/cases

.PHONY: review test check bench validate wheel clean

review: $(VENV)/.ready
	$(BIN)/cosim run gpu-vs-asic

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n auto

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.ready-dev
	$(BIN)/python benchmarks/speed.py

validate: $(VENV)/.ready
	$(BIN)/python benchmarks/accuracy.py $(CASES)

wheel: $(VENV)/.ready-dev
	bash .ci/wheel.sh $(BIN)/python

clean:
	rm -rf $(VENV) runs dist build

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cosim needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The README's accuracy table and figure, made anew.
.PHONY: readme
readme: review
	$(BIN)/cosim run asic-sweep
	$(BIN)/python benchmarks/readme.py $(CASES)
