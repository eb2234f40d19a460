# `make demo` and `make test` need Python >= 3.11 and make; they set up the rest in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo test test-all check docs wheel gpu setup weights test-weights clean

demo: $(VENV)/.installed weights
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

test: $(VENV)/.installed-dev test-weights
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

test-all: $(VENV)/.installed-dev test-weights
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "slow or not slow"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_docstrings.py
	OMP_NUM_THREADS=1 $(BIN)/python scripts/config_table.py --check

# The site opens from the disk: site/index.html. The variable silences an advertisement of the theme.
docs: $(VENV)/.installed-docs
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

wheel: $(VENV)/.installed weights
	PYTHON=$(CURDIR)/$(BIN)/python bash scripts/check_wheel.sh

# Uses the environment that is there: a GPU machine may be without network (docs/gpu.md).
gpu:
	@bash scripts/gpu.sh

setup: $(VENV)/.installed-dev

weights: $(VENV)/.installed
	@$(BIN)/python -c 'from video_vq.metrics.weights import I3D_WEIGHTS; I3D_WEIGHTS.path(fetch=False)' 2>/dev/null || \
	  $(BIN)/python -m video_vq doctor --fetch-weights >/dev/null || \
	  $(BIN)/python -m video_vq doctor

test-weights: $(VENV)/.installed
	$(BIN)/python -m video_vq doctor --fetch-weights --st-lpips >/dev/null || \
	  $(BIN)/python -m video_vq doctor --st-lpips

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "video-vq needs Python >= 3.11, $(PYTHON) is older; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "Python's venv is missing. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV)
