# `make` installs and runs the pipeline, `make test` installs and runs the tests. `make help` lists the rest.

PYTHON ?= python3
MODELS ?=  # of `make bench` and `make processors`
SEEDS ?= 5  # of `make bench`
PROGRAMS ?=  # of `make published`: all, if none is named
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
# What the shell says of other Pythons and places to install to
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH PIP_PREFIX
# DVC asks for both, and the user of a container may have neither
export HOME ?= $(CURDIR)/.dvc/tmp
# Where the home cannot be written, uv and the download need another place for what they keep
ifeq ($(origin HOME),environment)
ifneq ($(shell cache="$${XDG_CACHE_HOME:-$$HOME/.cache}"; mkdir -p "$$cache" 2> /dev/null && test -w "$$cache" && echo kept),kept)
export XDG_CACHE_HOME := $(CURDIR)/.dvc/tmp/cache
endif
endif
export USER ?= $(shell id -un 2> /dev/null || id -u)

# `make quick` trains these; one or two a framework, each a few seconds, two pairs of one architecture.
QUICK ?= train_pytorch@sprint train_pytorch@mlp train_tensorflow@sprint train_scratch@mlp_relu train_sklearn@knn_3

.PHONY: all help quick test test-all lint format experiments docs-check readme processors bench growth times \
	scaling published reproduce lock clean tracking tuning studies watch .history

# Installs everything into .venv and runs the pipeline, on as many cores as there are.
all: .venv/installed .history
	.venv/bin/python -m apps.pipeline
	@.venv/bin/python -m dvc metrics show

# A first result after a minute or two: a few models, evaluated, drawn and reported. `make` goes on from there.
# The stages that read all models run without DVC: dvc.lock keeps what it says of them for a run of all models, and
# the report does without parity.csv, which takes larger ones.
quick: .venv/installed .history
	.venv/bin/python -m apps.pipeline $(QUICK) embed_images
	.venv/bin/python -m stages.evaluate
	.venv/bin/python -m stages.compare_models
	.venv/bin/python -m stages.visualize
	.venv/bin/python -m stages.draw_page
	@.venv/bin/python -m stages.report

# Git says what to do if the folder is somebody else's; of an archive instead of a clone DVC has to know that it is one.
.history: .venv/installed
	@if ! test -e .git; then .venv/bin/python -m dvc config --local core.no_scm true; \
	else git rev-parse && { ! grep -qs no_scm .dvc/config.local || \
		.venv/bin/python -m dvc config --local --unset core.no_scm; }; fi

# Lists what `make` can do.
help:
	@awk '/^# / && !text { text = substr($$0, 3) } /^[a-z-]+:/ && text { printf "make %-12s %s\n", \
		substr($$1, 1, length($$1) - 1), text } !/^#/ { text = "" }' Makefile

# Installs everything and runs the tests.
test: .venv/installed
	.venv/bin/python -m pytest

# The tests, then the slow ones, which `make test` leaves out.
test-all: test
	.venv/bin/python -m pytest -m slow

# Checks the style of the code.
lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# Brings the code into that style.
format: .venv/installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Installs the experiment trackers that TRACKERS may name: docs/tracking.md.
tracking: .venv/tracking

# Shows the models that are training, and TensorBoard's page if that is installed.
watch: .venv/installed
	@.venv/bin/python -m apps.watch

# Shows DVC's experiments of the last commit, the best validation accuracy first.
experiments: .venv/installed
	@.venv/bin/python -m tools.experiments

# Says which of the documents below are not up to date. Only maintainers need them to be: no test reads them.
docs-check: .venv/installed
	.venv/bin/python -m tools.docs_check

# Writes again what README.md and docs/ show of measurements; measures nothing.
readme: .venv/installed
	.venv/bin/python -m tools.readme

# Measures which models are the same to the bit on which processors (all: forty minutes): docs/processors.*
processors: .venv/installed
	.venv/bin/python -m tools.processors $(MODELS)
	.venv/bin/python -m tools.readme

# Measures what installing, `make quick`, `make` and `make test` take on this machine, in a fresh clone.
times: .venv/installed
	.venv/bin/python -m tools.times
	.venv/bin/python -m tools.readme

# Measures the models over several seeds, those named or those that this machine has not measured yet.
#     make bench MODELS="pytorch/sprint sklearn/knn_3" SEEDS=10
bench: .venv/installed
	.venv/bin/python -m tools.bench $(MODELS) --seeds $(SEEDS)
	.venv/bin/python -m tools.readme

# Measures seconds and memory by images, batch size and threads (twelve minutes): docs/growth.*, docs/speed.md
growth: .venv/installed
	.venv/bin/python -m tools.growth
	.venv/bin/python -m tools.readme

# Simulates the pipeline on 2 to 64 cores, from the seconds of the last run: docs/scaling.*, docs/cluster.md
scaling: .venv/installed
	.venv/bin/python -m tools.scaling

# Measures well-known programs (twenty minutes), for docs/published.*
published: .venv/installed
	.venv/bin/python -m tools.published $(PROGRAMS)
	.venv/bin/python -m tools.readme

# Runs the studies of studies/params.yaml that changed: studies/index.html, studies/results/
studies: .venv/installed
	.venv/bin/python -m dvc repro studies/dvc.yaml

# Installs what searches for parameters (`python -m apps.tune`) and clusters need: docs/tuning.md.
tuning: .venv/tuning

# Runs the committed pipeline again from nothing and compares every output with dvc.lock.
reproduce: .venv/installed
	.venv/bin/python -m tools.reproduce

# The optional files may be installed in any combination, so they are compiled together first, and each of them
# keeps to what came out.
OPTIONAL := $(wildcard requirements-*.in)
COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--custom-compile-command "make lock"
# Compiles the locks of all packages, for every system and Python, after an edit of requirements*.in.
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

# uv installs several times faster than pip; where it cannot, pip does the same. pip leaves aside what its configuration
# or the shell says of other places to install to. /tmp may be small, so that both unpack in the project's folder.
UNPACKING := TMPDIR="$$PWD/.dvc/tmp"
UV_INSTALL := $(UNPACKING) UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-}}" \
	.venv/bin/uv pip install --python .venv/bin/python --compile-bytecode
PIP_INSTALL := $(UNPACKING) .venv/bin/python -m pip install --no-user --target= --root=/ --prefix="$$PWD/.venv" \
	--disable-pip-version-check
.venv/installed: requirements.txt
	@test ! -L .venv || { echo 'error: .venv is a link, and what it leads to would be emptied: remove it'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo 'error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo 'error: $(PYTHON) cannot make environments: install python3-venv (Debian, Ubuntu)'; exit 1; }
	@mkdir -p .dvc/tmp
	$(UNPACKING) $(PYTHON) -m venv --clear .venv
	$(PIP_INSTALL) --quiet "$$(grep '^uv==' requirements.in)" && \
		$(UV_INSTALL) --requirements requirements.txt || $(PIP_INSTALL) --requirement requirements.txt
	@touch $@

.venv/tracking .venv/tuning: .venv/%: requirements-%.txt .venv/installed
	$(UV_INSTALL) --requirements $< || $(PIP_INSTALL) --requirement $<
	@touch $@
