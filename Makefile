# Three commands for a fresh machine, each of which installs what it needs into .venv first:
#   make demo     generate new images and upscale a real photograph with the weights that ship, into demo/
#   make lab      JupyterLab, opened on the first tutorial
#   make test     lint, library in sync with the notebooks, notebooks clean and executed, tests run
# And for who works on it:
#   make lint     ruff, mypy and .ci/style.py          make nightly  the test, with slow cells and slow tests too
#   make docs     the site into _docs/, offline        make readme   README.md from nbs/index.ipynb
#   make export   notebooks -> library, clean, small   make clean    everything that was built, .venv too
# JOBS processes run notebooks and tests, one thread each: make test JOBS=4

PYTHON ?= python3
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
BIN := .venv/bin
READY := .venv/.installed
PIP := $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
NOTEBOOKS = $(ONE_THREAD) $(BIN)/nbdev_test --n_workers $(JOBS) --do_print --timing
TESTS = $(ONE_THREAD) $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: demo lab test nightly lint docs readme export clean

demo: $(READY)
	$(BIN)/python -m arsr.apps.demo

lab: $(READY)
	$(BIN)/jupyter lab --ServerApp.root_dir=nbs --LabApp.default_url=/lab/tree/tutorials/upscale.ipynb

test: lint
	$(BIN)/python .ci/check.py
	$(NOTEBOOKS)
	$(TESTS)

nightly: lint
	$(BIN)/python .ci/check.py
	$(NOTEBOOKS) --flags slow
	$(TESTS) -m "slow or not slow"

lint: $(READY)
	$(BIN)/ruff check -q
	$(BIN)/mypy
	$(BIN)/python .ci/style.py

docs: $(READY)
	$(BIN)/python .ci/docs.py $(QUARTO)

readme: $(READY)
	$(BIN)/python .ci/readme.py

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/python .ci/shrink.py
	$(BIN)/nbdev_clean

clean:
	rm -rf .venv .cache _proc _docs demo build dist *.egg-info

# Torch goes first and alone, so that no other package chooses a build of it; all versions are those of constraints.txt.
$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "arsr needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one with: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || { echo "creating .venv"; $(PYTHON) -m venv .venv; }
	@torch=$$(grep '^torch==' constraints.txt); echo "installing $$torch (some hundred megabytes)"; $(PIP) $$torch
	@echo "installing arsr and its tools (about two minutes)"; $(PIP) -e '.[dev,export]'
	@touch $@
