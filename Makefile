# make demo    installs everything into .venv and maps a synthetic slide end to end
# make test    installs what it needs and runs the tests
# make slow    the tests that take longer
# make lint    style, types, spelling

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Where pip was told to look for wheels, uv looks too; empty is fine.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Waiting threads sleep: spinning ones slow a shared machine down several times.
export OMP_WAIT_POLICY ?= PASSIVE

# Compiled modules are kept, whatever the shell says: tests start Python dozens of times, and torch alone takes seconds to compile.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test slow lint format clean

$(VENV)/.uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

$(VENV)/.installed: $(VENV)/.uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[onnx]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[lint,test]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/counterstain demo --out demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/codespell src tests docs benchmarks README.md CHANGELOG.md CONTRIBUTING.md

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .coverage*
