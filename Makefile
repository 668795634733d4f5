# `make run` and `make test` each work alone on a machine with Python 3.11, pip, make and git.  The
# virtual environment is made once from pinned versions and made anew when they change.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test check docs robustbench s3 clean

run: $(VENV)/.ready
	$(BIN)/robusteval run --model pcl_digits --suite full

test: $(VENV)/.ready
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

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

# RobustBench needs a timm of its own, and none of the robustbench that torchattacks' wheel carries:
# it has an environment where that is taken away.
robustbench: $(VENV)-robustbench/.ready
	$(VENV)-robustbench/bin/python -c 'from robusteval.robustbench import robustbench; robustbench()'  # else its tests are left out
	$(VENV)-robustbench/bin/python -m pytest -q tests/models/test_robustbench.py tests/documents -k 'robustbench or other_tools'

$(VENV)-robustbench/.ready: pyproject.toml constraints-robustbench.txt
	$(PYTHON) -m venv --clear $(VENV)-robustbench
	$(VENV)-robustbench/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-robustbench.txt
	rm -r $(VENV)-robustbench/lib/python*/site-packages/robustbench
	$(VENV)-robustbench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps robustbench==1.1.1 -e .
	touch $@

# s3fs and moto need other versions of packages that torchattacks and pandas pin here: they have an
# environment of their own, which finds everything else in the project's.
s3: $(VENV)-s3/.ready
	$(VENV)-s3/bin/python -c 'import moto, s3fs'  # else its tests are left out
	$(VENV)-s3/bin/python -m pytest -q -m s3 tests/stores

$(VENV)-s3/.ready: $(VENV)/.ready constraints-s3.txt
	$(PYTHON) -m venv --clear $(VENV)-s3
	$(VENV)-s3/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-s3.txt s3fs 'moto[s3,server]'
	printf '%s\n' $(abspath $(VENV))/lib/python3.11/site-packages $(CURDIR) > $$(ls -d $(VENV)-s3/lib/python*/site-packages)/project.pth
	touch $@

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps adv-lib
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs $(VENV)-robustbench $(VENV)-s3 docs/_build build dist
