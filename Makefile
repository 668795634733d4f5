# `make run` and `make test` each work alone on a machine with Python 3.11, pip, make and git.  The
# virtual environment is made once from pinned versions and made anew when they change.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test check docs clean

run: $(VENV)/.ready
	$(BIN)/robusteval run --model pcl_digits --suite full

test: $(VENV)/.ready
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.ready
	$(BIN)/ruff check robusteval tests benchmarks examples
	$(BIN)/ruff check --preview --select PLW1514 robusteval benchmarks  # each text's encoding
	$(BIN)/ruff format --check robusteval tests benchmarks examples
	$(BIN)/mypy

# The site needs a younger requests than torchattacks takes: it has an environment of its own, which
# finds everything else in the project's.
docs: $(VENV)-docs/.ready
	$(VENV)-docs/bin/sphinx-build -W --keep-going -q -b html docs docs/_build

$(VENV)-docs/.ready: $(VENV)/.ready docs/constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --disable-pip-version-check -c docs/constraints.txt sphinx myst-parser furo sphinx-copybutton
	echo $(abspath $(VENV))/lib/python3.11/site-packages > $$(ls -d $(VENV)-docs/lib/python*/site-packages)/project.pth
	touch $@

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps adv-lib
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs docs/_build build dist
