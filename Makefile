# Two commands: `make demo` and `make test`. Each makes .venv if there is none and installs what it needs into it, from
# a machine that has only Python (3.10 to 3.13), make and a package index.

PYTHON ?= python3
BIN := .venv/bin

export HF_HUB_OFFLINE := 1
export HAYSTACK_TELEMETRY_ENABLED := False

.PHONY: demo test lint bench docs clean

demo: .venv/.installed
	$(BIN)/rocketqa demo --output build/demo

# In as many processes as there are cores, up to four: each takes about 1 GB of memory.
test: .venv/.installed-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Run on an otherwise idle machine: make bench COLLECTION=FOLDER, in BEIR layout.
bench: .venv/.installed-dev
	@test -n "$(COLLECTION)" || { echo "make bench COLLECTION=FOLDER, a collection in BEIR layout"; exit 2; }
	$(BIN)/python benchmarks/encode.py $(COLLECTION)
	$(BIN)/python benchmarks/rank.py $(COLLECTION)
	$(BIN)/python benchmarks/train.py $(COLLECTION)
	$(BIN)/python benchmarks/memory.py $(COLLECTION)

docs: .venv/.installed-dev
	$(BIN)/python -m mkdocs build --strict
	@echo "Open build/site/index.html, or run $(BIN)/python -m mkdocs serve"

clean:
	rm -rf .venv build

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu,demo]"
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu,demo,dev]"
	touch $@
