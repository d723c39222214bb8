# Two commands do everything on a fresh machine with Python >= 3.11 and make: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
BROWSER_READY := $(VENV)/.ready-browser
BENCH ?=
SLURM_PACKAGES := slurm-wlm munge
SLURM_TESTS ?= slurm
SCALE ?= full
RUN := results/article-$(SCALE)
ARTICLE := recurrent deep language thresholds speed generalise modes critic cost

.PHONY: run test test-slow test-exhaustive test-slurm slurm-packages article reference browser browser-ready soak bench lint format clean
.DEFAULT_GOAL := run

run: $(READY)  ## train the default experiment and write its report
	$(BIN)/gradbench run

test: $(READY)  ## run the tests but for the slow ones: minutes
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(READY)  ## run the slow ones: kills, fuzz, every model with every family, the browser where there is one
	$(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not gpu and not exhaustive and not slurm"

test-exhaustive: $(READY)  ## run what neither of them runs: each model with each regularizer and update
	$(BIN)/python -m pytest -n auto --dist worksteal -m "exhaustive and not gpu and not slurm"

test-slurm: $(READY) slurm-packages  ## run jobs on a SLURM that the tests start; SLURM_TESTS="slurm and not slow": a minute of them
	$(BIN)/python -m pytest -n 0 -rs -m "$(SLURM_TESTS)" tests/slurm

slurm-packages:  ## install SLURM where it is missing and apt-get may; without it those tests are skipped
	@if PATH="$$PATH:/usr/sbin"; type munged slurmctld slurmd sbatch >/dev/null 2>&1; then exit; fi; \
	if [ "$$(id -u)" != 0 ] || ! type apt-get >/dev/null 2>&1; then \
		echo "SLURM is not installed, and only root can install it by apt-get: $(SLURM_PACKAGES)"; exit; \
	fi; \
	echo "apt-get installs $(SLURM_PACKAGES)"; export DEBIAN_FRONTEND=noninteractive; \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $(SLURM_PACKAGES); } </dev/null >/dev/null || \
		echo "apt-get could not install $(SLURM_PACKAGES)"

article: $(READY)  ## train all experiments of the article, what is finished excepted, and judge its claims; SCALE=small: a quarter of an hour
	@for name in $(ARTICLE); do \
		$(BIN)/gradbench run $$name scale=$(SCALE) --results $(RUN)/$$name || test $$? -eq 1 || exit; \
	done
	$(BIN)/gradbench claims $(RUN)

reference: $(READY)  ## keep of that what git keeps, in results/article, and fill the table in its README
	$(BIN)/python experiments/article/reference.py $(RUN) results/article
	$(BIN)/gradbench claims results/article --into results/article/README.md

browser: browser-ready  ## try the report's page in a headless Chromium or Chrome, which must be on the PATH
	$(BIN)/python -m pytest -rs -m slow tests/test_browser.py

browser-ready: $(BROWSER_READY)

soak: $(READY)  ## kill sweeps 250 times, 50 of them while mending, and lose nothing; a quarter of an hour
	$(BIN)/python tests/soak.py --kills 200 --mends 50

bench: $(BENCH_READY)  ## measure all that experiments/throughput/README.md says of speed; options in BENCH="--rounds 1 --parts mlp,scaling"
	$(BIN)/python experiments/throughput/bench.py $(BENCH)

lint: $(READY)  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)  ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment and caches, never results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gradbench needs Python 3.11 or newer, $(PYTHON) is `$(PYTHON) --version`; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $(READY)

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --group bench
	@touch $(BENCH_READY)

$(BROWSER_READY): $(READY)
	$(BIN)/python -m pip install --quiet --group browser
	@touch $(BROWSER_READY)
