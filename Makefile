# `make` installs and runs the pipeline, `make test` installs and runs the tests. `make help` lists the rest.

PYTHON ?= python3
MODELS ?=  # of `make bench` and `make processors`
SEEDS ?= 5  # of `make bench`
PROGRAMS ?=  # of `make published`: all, if none is named
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

# `make quick` trains these; one or two a framework, each a few seconds, two pairs of one architecture.
QUICK ?= train_pytorch@sprint train_pytorch@mlp train_tensorflow@sprint train_scratch@mlp_relu train_sklearn@knn_3

.PHONY: all help quick test test-all lint format experiments docs-check readme processors bench growth times \
	published reproduce lock clean tracking tuning watch

# Installs everything into .venv and runs the pipeline, on as many cores as there are.
all: .venv/installed
	@test -e .git || python -m dvc config --local core.no_scm true  # an archive instead of a clone
	python -m apps.pipeline
	@python -m dvc metrics show

# A first result after a minute or two: a few models, evaluated, drawn and reported. `make` goes on from there.
# The stages that read all models run without DVC: dvc.lock keeps what it says of them for a run of all models, and
# the report does without parity.csv, which takes larger ones.
quick: .venv/installed
	@test -e .git || python -m dvc config --local core.no_scm true
	python -m apps.pipeline $(QUICK) embed_images
	python -m stages.evaluate
	python -m stages.compare_models
	python -m stages.visualize
	@python -m stages.report

# Lists what `make` can do.
help:
	@awk '/^# / && !text { text = substr($$0, 3) } /^[a-z-]+:/ && text { printf "make %-12s %s\n", \
		substr($$1, 1, length($$1) - 1), text } !/^#/ { text = "" }' Makefile

# Installs everything and runs the tests.
test: .venv/installed
	python -m pytest

# The tests, then the slow ones, which `make test` leaves out.
test-all: test
	python -m pytest -m slow

# Checks the style of the code.
lint: .venv/installed
	ruff check .
	ruff format --check .

# Brings the code into that style.
format: .venv/installed
	ruff check --fix .
	ruff format .

# Installs the experiment trackers that TRACKERS may name: docs/tracking.md.
tracking: .venv/tracking

# Shows the models that are training, and TensorBoard's page if that is installed.
watch: .venv/installed
	@python -m apps.watch

# Shows DVC's experiments of the last commit, the best validation accuracy first.
experiments: .venv/installed
	@python -m tools.experiments

# Says which of the documents below are not up to date. Only maintainers need them to be: no test reads them.
docs-check: .venv/installed
	python -m tools.docs_check

# Writes again what README.md and docs/ show of measurements; measures nothing.
readme: .venv/installed
	python -m tools.readme

# Measures which models are the same to the bit on which processors (all: forty minutes): docs/processors.*
processors: .venv/installed
	python -m tools.processors $(MODELS)
	python -m tools.readme

# Measures what installing, `make quick`, `make` and `make test` take on this machine, in a fresh clone.
times: .venv/installed
	python -m tools.times
	python -m tools.readme

# Measures the models over several seeds, those named or those that this machine has not measured yet.
#     make bench MODELS="pytorch/sprint sklearn/knn_3" SEEDS=10
bench: .venv/installed
	python -m tools.bench $(MODELS) --seeds $(SEEDS)
	python -m tools.readme

# Measures seconds and memory by images, batch size and threads (twelve minutes): docs/growth.*, docs/speed.md
growth: .venv/installed
	python -m tools.growth
	python -m tools.readme

# Measures well-known programs (twenty minutes), for docs/published.*
published: .venv/installed
	python -m tools.published $(PROGRAMS)
	python -m tools.readme

# Installs what searches for parameters (`python -m apps.tune`) and clusters need: docs/tuning.md.
tuning: .venv/tuning

# Runs the committed pipeline again from nothing and compares every output with dvc.lock.
reproduce: .venv/installed
	python -m tools.reproduce

# Compiles the locks: every package, for every system and Python. The optional files may be installed in any
# combination, so they are compiled together first, and each of them keeps to what came out.
OPTIONAL := $(wildcard requirements-*.in)
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock"
lock: .venv/installed
	$(COMPILE) --generate-hashes requirements.in --output-file requirements.txt
	$(COMPILE) $(OPTIONAL) --constraints requirements.txt --output-file .venv/together.txt
	for file in $(OPTIONAL:.in=); do \
		$(COMPILE) --generate-hashes $$file.in --constraints requirements.txt --constraints .venv/together.txt \
			--output-file $$file.txt || exit; \
	done

# Removes the environment.
clean:
	rm -rf .venv

# uv installs several times faster than pip; where it cannot, pip does the same.
UV_INSTALL := UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-}}" .venv/bin/uv pip install --compile-bytecode
PIP_INSTALL := .venv/bin/python -m pip install --disable-pip-version-check
.venv/installed: requirements.txt
	@test ! -L .venv || { echo 'error: .venv is a link, and what it leads to would be emptied: remove it'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo 'error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PIP_INSTALL) --quiet "$$(grep '^uv==' requirements.in)" && \
		$(UV_INSTALL) --requirements requirements.txt || $(PIP_INSTALL) --requirement requirements.txt
	@touch $@

.venv/tracking .venv/tuning: .venv/%: requirements-%.txt .venv/installed
	$(UV_INSTALL) --requirements $< || $(PIP_INSTALL) --requirement $<
	@touch $@
