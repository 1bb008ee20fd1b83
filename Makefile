# `make` installs and runs the pipeline, `make test` installs and runs the tests.
# The rest is for those who change something.

PYTHON ?= python3
MODELS ?=  # of `make bench` and `make processors`: all, if none is named
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: all test test-all lint format readme edits frameworks processors bench growth \
	published reproduce lock clean

all: .venv/installed
	@test -e .git || python -m dvc config --local core.no_scm true  # an archive instead of a clone
	python -m dvc repro
	@python -m dvc metrics show

test: .venv/installed
	python -m pytest

# The tests, then the slow ones, which `make test` leaves out.
test-all: test
	python -m pytest -m slow

lint: .venv/installed
	ruff check .
	ruff format --check .

format: .venv/installed
	ruff check --fix .
	ruff format .

# Writes the results table of README.md from outputs/metrics, cards and timings, and docs/published.md.
readme: .venv/installed
	python -m tools.readme
	python -m tools.published

# Runs the committed pipeline again from nothing and compares every output with dvc.lock.
reproduce: .venv/installed
	python -m tools.reproduce

# Writes docs/edits.md: what runs again after which edit.
edits: .venv/installed
	python -m tools.edits

# Writes docs/processors.md: which models are the same to the bit on which processors (all: half an hour).
processors: .venv/installed
	python -m tools.processors $(MODELS)

# Writes docs/frameworks.md: what differs between the frameworks, measured (five minutes).
frameworks: .venv/installed
	python -m tools.frameworks

# Writes docs/speed.md and the README's table of speed: every model over three seeds (a quarter of an
# hour), or those named: make bench MODELS="pytorch/sprint sklearn/knn_3" SEEDS=10
SEEDS ?= 3
bench: .venv/installed
	python -m tools.bench $(MODELS) --seeds $(SEEDS)

# Writes docs/growth.csv and .png: seconds and memory by images, batch size and threads (twelve minutes).
growth: .venv/installed
	python -m tools.growth

# Writes docs/published.csv and .md: what others report, and their programs trained here (twenty minutes).
published: .venv/installed
	python -m tools.published --measure

# Compiles requirements.txt from requirements.in: every package, for every system and Python.
lock: .venv/installed
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" requirements.in --output-file requirements.txt

clean:
	rm -rf .venv

# uv installs several times faster than pip; where it cannot, pip does the same.
.venv/installed: requirements.txt
	@test ! -L .venv || { echo 'error: .venv is a link, and what it leads to would be emptied: remove it'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo 'error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.in)" && \
		UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-}}" .venv/bin/uv pip install --compile-bytecode --requirements requirements.txt || \
		.venv/bin/python -m pip install --disable-pip-version-check --requirement requirements.txt
	@touch $@
