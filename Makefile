# The two commands of a newcomer: `make sweep-steps` and `make test`. Both need nothing but Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
RUN_DIR ?= runs/word_problems
JOBS ?= 2
BIN := $(VENV)/bin
TASK := configs/word_problems

.PHONY: help sweep-steps train-default test check format clean

help:
	@echo "make sweep-steps    train briefly, decode with every policy at every budget, draw the frontier"
	@echo "make train-default  train the default denoiser from nothing and refresh the weights that ship"
	@echo "make test           the whole test suite"
	@echo "make check          format, lint, types, import contracts"
	@echo "make format         apply format and lint fixes"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; call make with PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.run
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --constraint constraints.txt --editable '.[dev]'
	@touch $@

sweep-steps: $(VENV)/.run
	$(BIN)/lightning fit --config $(TASK)/denoiser.yaml --config $(TASK)/from_shipped.yaml --run_dir $(RUN_DIR) --ckpt_path last
	$(BIN)/lightning sweep --config $(TASK)/denoiser.yaml --config $(TASK)/from_shipped.yaml --run_dir $(RUN_DIR) \
		--ckpt_path $(RUN_DIR)/checkpoints/last.ckpt

# Two stages, an hour or two on 2 cores: two to three steps from nothing, then the default from those weights.
EASY := runs/word_problems_easy
train-default: $(VENV)/.run
	$(BIN)/lightning fit --config $(TASK)/denoiser.yaml --config $(TASK)/easy.yaml --run_dir $(EASY) --ckpt_path last
	$(BIN)/python experiments/word_problems/ship_weights.py $(EASY) $(EASY)/checkpoints
	$(BIN)/lightning fit --config $(TASK)/denoiser.yaml --config $(TASK)/after_easy.yaml --ckpt_path last
	$(BIN)/python experiments/word_problems/ship_weights.py runs/word_problems_after_easy

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
