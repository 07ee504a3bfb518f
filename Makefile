# Two commands for a fresh machine, each of which installs what it needs into .venv first:
#   make demo     generate new images and upscale a real photograph with the weights that ship, into demo/
#   make test     library in sync with the notebooks, notebooks clean and executed, tests run
# And for who works on it:
#   make docs     the site into _docs/, offline        make readme   README.md from nbs/index.ipynb
#   make export   notebooks -> library, cleaned        make clean    everything that was built, .venv too

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.PHONY: demo test docs readme export clean

demo: $(READY)
	$(BIN)/python -m arsr.apps.demo

test: $(READY)
	$(BIN)/python .ci/check.py
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --do_print --timing
	$(BIN)/python -m pytest tests -q

docs: $(READY)
	$(BIN)/python .ci/docs.py $(QUARTO)

readme: $(READY)
	$(BIN)/python .ci/readme.py

export: $(READY)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

clean:
	rm -rf .venv .cache _proc _docs demo build dist *.egg-info

# Torch goes first and alone, so that no other package chooses a build of it; all versions are those of constraints.txt.
$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "arsr needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one with: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check $$(grep '^torch==' constraints.txt) -c constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@
