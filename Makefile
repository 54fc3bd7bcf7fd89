# Two commands are enough: `make demo` and `make test`. Both set up everything that they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := $(VENV)/.requirements
STAMP := $(VENV)/.installed
NATIVE := CMakeLists.txt $(wildcard src/twofold/kernels/cpu/csrc/*.cpp src/twofold/kernels/cpu/csrc/*.h)

.PHONY: demo test test-all lint types format docs bench clean

$(REQUIREMENTS): requirements.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	@touch $@

# Builds the native kernels too, with the versions in requirements.txt; without a compiler it says so and goes on.
$(STAMP): $(REQUIREMENTS) pyproject.toml $(NATIVE)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'from twofold.kernels import cpu; print(cpu.why_missing() or "Native CPU kernels: " + ", ".join(cpu.native().supported_isas()))'
	@touch $@

# Runs six published techniques on a real model, predicts each elsewhere, prints the comparison, writes the report.
demo: $(STAMP)
	$(BIN)/twofold pull smollm2-135m
	$(BIN)/twofold calibrate --quick
	$(BIN)/twofold compare --html twofold-report.html

test: $(STAMP)
	$(BIN)/twofold pull smollm2-135m || echo "no default model: tests that need it will be skipped"
	$(BIN)/python -m pytest -m "not long"

# Also the long matrices: every pair of techniques, more families, the 100,000-request simulation.
test-all: $(STAMP)
	$(BIN)/twofold pull smollm2-135m || echo "no default model: tests that need it will be skipped"
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Rewrites the tables in README.md and docs/ from the code and the measurements in docs/data.
docs: $(STAMP)
	$(BIN)/python -m twofold.jobs.docs

clean:
	rm -rf $(VENV) build dist *.egg-info
