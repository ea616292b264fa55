# The two commands of a newcomer: `make sweep-steps` and `make test`. Both need nothing but Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
RUN_DIR ?= runs/word_problems
JOBS ?= 2
BIN := $(VENV)/bin
TASK := configs/word_problems

.PHONY: help sweep-steps sudoku sudoku-hard sudoku-analysis rehearse-gsm8k train-default test check format clean

help:
	@echo "make sweep-steps    train briefly, decode with ten policies at every budget, draw the frontier"
	@echo "make sudoku         a small Sudoku denoiser, its order, every policy at every budget, an analysis: 2 cores, minutes"
	@echo "make rehearse-gsm8k the pipeline at the paper's scale, in small and offline, minutes on one core"
	@echo "make train-default  train the default denoiser and its order from nothing, refresh the weights that ship"
	@echo "make test           the whole test suite"
	@echo "make check          format, lint, types, import contracts"
	@echo "make format         apply format and lint fixes"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; call make with PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Python compiles what it imports and keeps it: to compile all that is installed takes longer than to install it.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --no-compile
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/.run $@

# A denoiser, then the order in which it generates, then the policies of order.yaml at every budget.
DENOISER := --config $(TASK)/denoiser.yaml --config $(TASK)/from_shipped.yaml --run_dir '$(RUN_DIR)/denoiser'
ORDER := --config $(TASK)/order.yaml --config $(TASK)/order_from_shipped.yaml --run_dir '$(RUN_DIR)'
sweep-steps: $(VENV)/.run
	$(BIN)/lightning fit $(DENOISER) --ckpt_path last
	$(BIN)/lightning fit $(ORDER) --model.denoiser_ckpt '$(RUN_DIR)/denoiser/checkpoints/last.ckpt' --ckpt_path last
	$(BIN)/lightning sweep $(ORDER) --ckpt_path '$(RUN_DIR)/checkpoints/last.ckpt'

# Easy and hard puzzles are two splits of the same frontier; nearly all hard ones have few clues. The trainings are
# shorter than those of small.yaml, at a higher rate, and order_small.yaml: ten minutes are for slow machines, too.
SUDOKU := --config configs/sudoku/denoiser.yaml --config configs/sudoku/small.yaml
SUDOKU_ORDER := --config configs/sudoku/order.yaml --config configs/sudoku/order_small.yaml
SHORT := --trainer.max_steps 1500 --trainer.val_check_interval 1500 --model.learning_rate 6e-3 --model.warmup_steps 150
SHORT_ORDER := --trainer.max_steps 200 --trainer.val_check_interval 200
NO_BOUNDS := --model.bound_budgets []
ONE_PRICE := --model.prices [0.01]  # an analysis shows the order at every price of the module
HARD := --data.test_difficulty hard --data.min_clues 26 --data.max_clues 34 --data.n_test 30 --frontier.budgets [8,36]
sudoku: $(VENV)/.run
	$(BIN)/lightning fit $(SUDOKU) $(SHORT) --ckpt_path last
	$(BIN)/lightning fit $(SUDOKU_ORDER) $(NO_BOUNDS) $(SHORT_ORDER) --ckpt_path last
	$(BIN)/lightning sweep $(SUDOKU_ORDER) $(NO_BOUNDS) --ckpt_path last --frontier.budgets [1,2,4,36]
	$(MAKE) --jobs 2 sudoku-hard sudoku-analysis

# Beside each other, a core for each.
sudoku-hard sudoku-analysis: export OMP_NUM_THREADS = 1
sudoku-hard:
	$(BIN)/lightning sweep $(SUDOKU_ORDER) $(NO_BOUNDS) --ckpt_path last $(HARD)
sudoku-analysis:
	$(BIN)/lightning analyse $(SUDOKU_ORDER) $(NO_BOUNDS) $(ONE_PRICE) --ckpt_path last --subproblems.n_problems 20

# Fox et al.'s comparison on GSM8K-Aug, with a small net and files that it makes itself.
rehearse-gsm8k: $(VENV)/.run
	$(BIN)/python experiments/gsm8k_aug/run.py rehearse

# Five stages of growing difficulty, hours on 2 cores, each from the weights of the one before.
STAGES := 1 2 3 4 5
train-default: $(VENV)/.run
	@set -e; for stage in $(STAGES); do \
		$(BIN)/lightning fit --config $(TASK)/denoiser.yaml --config $(TASK)/stage_$$stage.yaml --ckpt_path last; \
		$(BIN)/python experiments/word_problems/ship_weights.py \
			runs/word_problems_stage_$$stage runs/word_problems_stage_$$stage/checkpoints; \
	done
	$(BIN)/python experiments/word_problems/ship_weights.py runs/word_problems_stage_$(lastword $(STAGES))
	$(BIN)/lightning fit --config $(TASK)/order.yaml --ckpt_path last
	$(BIN)/python experiments/word_problems/ship_weights.py runs/word_problems_order

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

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
