# Each target first makes what it needs, so any of them works on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python run.py
# Extra settings for the runs of a target, for example: make regression ARGS="compute.device=cuda"
ARGS ?=
# Two single-threaded workers are as fast as two threads, and other work on the machine slows them down less.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)
LOCAL := hydra/launcher=local hydra.launcher.n_jobs=$(WORKERS) compute.threads=1

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-gpu lint regression regression-longer surfaces regression-normalised \
  second-order descent recipes recipe-unseen recipe-limits projections theory synthetic-gradients surrogates surrogate \
  teachers distillation distillation-search playing collect collect-what-is-whole figures report site wandb-sync bench \
  faults revision clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## virtual environment with pinned versions (1 to 3 minutes)

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null \
	  || { echo "error: there is no $(PYTHON) here, 3.11 to 3.13 needed: make PYTHON=python3.12 setup"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "error: $$($(PYTHON) --version) found, 3.11 to 3.13 needed: make PYTHON=python3.12 setup"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[experiments,parallel,dev]'
	@touch $@

quickstart: setup ## a first look at every domain, at a small budget (3 to 6 minutes with setup)
	$(RUN) -m sweep=regression/quickstart runs_dir=quickstart/runs $(LOCAL) $(ARGS)
	$(RUN) -m sweep=theory/exact runs_dir=quickstart/runs $(ARGS)
	$(RUN) -m sweep=synthetic_gradients/digits seed=0 technique=backprop,noprop,critic,sobolev optimizer.steps=300 \
	  runs_dir=quickstart/runs $(LOCAL) $(ARGS)
	$(RUN) -m sweep=distillation/quickstart dataset.folder=quickstart/data runs_dir=quickstart/runs $(LOCAL) $(ARGS)
	$(BIN)/python -m scripts.collect --runs quickstart/runs --results quickstart
	$(BIN)/python -m scripts.figures figure_2 figure_3 surfaces learning_curves ratios figure_2_left gaussian_pair accuracy \
	  gradient_cosine figure_4 distillation_curves saliency --results quickstart

regression: setup ## Figure 2 at the paper's protocol (2 to 3 hours on 2 cores)
	$(RUN) -m sweep=regression/figure_2 $(LOCAL) $(ARGS)
	$(MAKE) figures report

regression-longer: setup ## three times the updates for the cells that still improve (4 hours on 2 cores)
	$(RUN) -m sweep=regression/figure_2_longer $(LOCAL) $(ARGS)
	$(BIN)/python -m scripts.collect --replace regression
	$(MAKE) figures report

surfaces: setup ## Figure 3 and SM 5-11, models and gradient fields (80 core-minutes)
	$(RUN) -m sweep=regression/surfaces hydra/launcher=together $(ARGS)
	$(MAKE) figures report

regression-normalised: setup ## the same grid in the normalised protocol (15 to 20 minutes on 2 cores)
	$(RUN) -m sweep=regression/figure_2_normalised $(LOCAL) $(ARGS)
	$(MAKE) figures report

second-order: setup ## what Hessians add, with a smooth activation (40 minutes on 2 cores)
	$(RUN) -m sweep=regression/second_order $(LOCAL) $(ARGS)
	$(MAKE) figures report

descent: setup ## whether descent on the Sobolev loss makes it smaller (15 minutes on 2 cores)
	$(RUN) -m sweep=regression/descent $(LOCAL) $(ARGS)
	$(MAKE) figures report

recipes: setup ## a search for how derivatives help, and its recipe on the paper's functions (1 to 2 hours on 2 cores)
	$(RUN) -m sweep=regression/recipes_networks $(LOCAL) $(ARGS)
	-@$(BIN)/python -m scripts.collect regression_recipes
	$(BIN)/python -m scripts.recipes
	for part in value value_rate terms norms differences; do \
	  $(RUN) -m sweep=regression/recipes_$$part $(LOCAL) $(ARGS) || exit 1; done
	-@$(BIN)/python -m scripts.collect regression_recipes
	$(BIN)/python -m scripts.recipes
	$(RUN) -m sweep=regression/recipe $(LOCAL) $(ARGS)
	$(MAKE) figures report

recipe-unseen: setup ## the recipe on five models of engineering, on which nothing was chosen (15 minutes on 2 cores)
	$(RUN) -m sweep=regression/recipe_unseen $(LOCAL) $(ARGS)
	$(MAKE) figures report

recipe-limits: setup ## the recipe with other weights, and with noise in the derivatives (15 minutes on 2 cores)
	for part in recipe_weights recipe_noise recipe_limits_value; do \
	  $(RUN) -m sweep=regression/$$part $(LOCAL) $(ARGS) || exit 1; done
	$(MAKE) figures report

projections: setup ## number and kind of the vectors that Jacobians are projected on (30 minutes on 2 cores)
	for part in projections projections_full; do \
	  $(RUN) -m sweep=regression/$$part $(LOCAL) $(ARGS) || exit 1; done
	$(MAKE) figures report

theory: setup ## Theorems 1 and 2, Propositions 1 to 3, sample complexity (15 minutes on 2 cores)
	for part in exact construction mismatch approximation points; do \
	  $(RUN) -m sweep=theory/$$part $(LOCAL) $(ARGS) || exit 1; done
	$(MAKE) figures report

synthetic-gradients: setup ## Table 1's techniques on the digits, 10 seeds (10 minutes on 2 cores)
	$(RUN) -m sweep=synthetic_gradients/digits $(LOCAL) $(ARGS)
	$(MAKE) figures report

surrogates: setup ## a reactor and a basket option, values against values and derivatives (20 minutes on 2 cores)
	for task in reactor basket; do $(RUN) -m sweep=surrogates/$$task $(LOCAL) $(ARGS) || exit 1; done
	$(MAKE) figures report

surrogate: setup ## your own samples, make surrogate DATA=mine.npz: runs and figures in surrogate/ (2 to 7 minutes on 2 cores)
	$(RUN) -m sweep=surrogates/own "dataset.path='$(DATA)'" runs_dir=surrogate/runs $(LOCAL) $(ARGS)
	$(BIN)/python -m scripts.collect --runs surrogate/runs --results surrogate
	$(BIN)/python -m scripts.figures surrogate_errors surrogate_predictions --results surrogate

teachers: setup ## train the Atari teachers: Pong, Breakout, Space Invaders (9 core-hours, less on a GPU)
	$(RUN) -m experiment=train_teacher dataset=atari/pong,atari/breakout,atari/space_invaders $(LOCAL) $(ARGS)
	$(BIN)/python -m scripts.export_teachers --runs runs

distillation: setup ## Figure 4: 180 students of the teachers (60 core-hours: narrow it with ARGS, or use a GPU)
	$(RUN) -m sweep=distillation/figure_4 $(LOCAL) $(ARGS)
	$(MAKE) figures report

distillation-search: setup ## learning rates and alphas of Figure 4, on validation episodes (4 core-hours)
	$(RUN) -m sweep=distillation/search $(LOCAL) $(ARGS)
	$(RUN) -m sweep=distillation/search_value $(LOCAL) $(ARGS)
	$(BIN)/python -m scripts.tune

playing: setup ## a teacher beside two students, playing: results/figures/playing.gif (10 minutes on 2 cores)
	$(RUN) -m sweep=distillation/figure_4_reduced dataset=atari/breakout n_train=1000 seed=0 \
	  runs_dir=playing/runs $(LOCAL) $(ARGS)
	$(BIN)/python -m scripts.playing playing/runs/distill_atari/breakout-*

collect: setup ## complete runs in runs/ into results/ (seconds)
	@$(BIN)/python -m scripts.collect

collect-what-is-whole: setup
	-@$(BIN)/python -m scripts.collect # a damaged run is reported, but the figures are still drawn

figures: collect-what-is-whole ## every figure and table, from the rows in results/ (1 minute)
	$(BIN)/python -m scripts.figures
	$(BIN)/python -m scripts.tables

report: collect-what-is-whole ## results/REPORT.md: each claim, our number, the verdict (seconds)
	$(BIN)/python -m scripts.report

wandb-sync: setup ## send rows in runs/ to Weights & Biases that it does not have yet
	$(BIN)/python -m scripts.wandb_sync

bench: setup ## speed against naive loops, counts of operations and the machine's limit (10 minutes)
	$(BIN)/python -m scripts.bench.regression
	$(BIN)/python -m scripts.bench.synthetic_gradients
	$(BIN)/python -m scripts.bench.distillation
	$(BIN)/python -m scripts.bench.atari

faults: setup ## break every kind of run on purpose and check that it ends in the same rows (1 to 2 hours; resumes)
	$(BIN)/python -m scripts.faults

revision: ## note the revision in REVISION, for a copy of the tree without .git
	git rev-parse HEAD > REVISION
	git status --porcelain --untracked-files=no >> REVISION

test-gpu: setup ## the tests that need a GPU (a few minutes on one; elsewhere they are skipped)
	$(BIN)/python -m pytest tests/gpu -rs

site: setup ## the documentation as a site that opens from its folder, site/ (10 seconds)
	$(BIN)/python -m scripts.site

test: setup ## the tests (6 minutes on 2 cores, no GPU, no network)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'not slow'

test-slow: setup ## the tests that kill runs, build the wheel and the site or run notebooks (3 minutes more)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m slow

lint: setup ## ruff: style and format; mypy: the types of sobolev (half a minute, then seconds)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove the environment and caches; runs and results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
