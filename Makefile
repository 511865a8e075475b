# install, demo, test and bench need nothing but Python 3.11 or later; each installs first where needed.
PYTHON ?= python3
BIN := .venv/bin
# two processes of one thread each take half the time of one with two threads
TESTS := -m pytest -n 2 --dist worksteal
test test-base test-lowest: export OMP_NUM_THREADS = 1

.PHONY: install demo docs test test-base test-lowest bench clean

install: .venv/installed

# a virtual environment with uv in it, in the folder that is given
define environment
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "transferscope needs Python 3.11 or later; run make PYTHON=python3.12 $@")'
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet uv
endef

.venv/installed: pyproject.toml constraints.txt
	$(call environment,.venv)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[all]' --group dev
	touch $@

.venv-base/installed: pyproject.toml constraints.txt
	$(call environment,.venv-base)
	.venv-base/bin/uv pip install --quiet --python .venv-base/bin/python --constraints constraints.txt --editable . --group test
	touch $@

.venv-lowest/installed: pyproject.toml
	$(call environment,.venv-lowest)
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable . --group test
	touch $@

demo: install
	$(BIN)/python tools/demo.py

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python $(TESTS)

# without torch and the other extras
test-base: .venv-base/installed
	.venv-base/bin/python $(TESTS)

# the report in headless Chromium, looked at by axe
test-browser: install
	command -v chromium || (apt-get update && apt-get install --yes chromium)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --group browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_browser.py

# the same with the oldest versions that pyproject.toml allows
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python $(TESTS)

# into build/site; installs first, then needs no network
docs: .venv/docs-installed
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/site
	$(BIN)/python tools/documentation.py build/site

.venv/docs-installed: .venv/installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --group docs
	touch $@

bench: install
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf .venv .venv-base .venv-lowest .mypy_cache .ruff_cache .pytest_cache build dist docs/generated
