# Every verb of the project. `make help` lists them.
SHELL   := /bin/bash
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
DATASET ?= pc_parts_mini
ARCH    ?=
RUN     ?=
ARGS    ?=
# two processes at a time, each with one thread: more of either wait for each other on two cores
TESTENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 IMGCLF_RUNS=$(CURDIR)/.test_runs IMGCLF_RECORDS=$(CURDIR)/.test_runs/records
# their kernels are forked from one process that has torch and fastai loaded
SERVED  := $(BIN)/python tests/served.py

.DEFAULT_GOAL := help
.PHONY: help setup run fetch audit train evaluate compare leaderboard export clean-notebooks refresh gate test bench bench-long tables docs lab

help: ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make .venv with the package and its development requirements
$(VENV)/.ready: settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + ": make setup PYTHON=python3.12") if not (3,10) <= sys.version_info < (3,14) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

run: setup ## set up, train on a drawn miniature, evaluate, print the numbers (needs no hub)
	@HF_HUB_OFFLINE=1 $(BIN)/imgclf_run pc_parts_mini

fetch: setup ## get a set from its source: make fetch DATASET=chest_xray
	@$(BIN)/imgclf_fetch "$(DATASET)" $(ARGS)

audit: setup ## what is wrong with a set, and what its labels allow: make audit DATASET=chest_xray [ARGS="--groups names"]
	@$(BIN)/imgclf_audit "$(DATASET)" $(ARGS)

train: setup ## train and evaluate: make train DATASET=chest_xray [ARCH=resnet18] [RUN=name] [ARGS="-p epochs 5"]
	@$(BIN)/imgclf_run "$(DATASET)" $(if $(ARCH),--arch $(ARCH)) $(if $(RUN),--run "$(RUN)") $(ARGS)

evaluate: setup ## what a run is worth, in three chapters and a card: make evaluate RUN=name [ARGS="-p miss_cost 20"]
	@$(BIN)/imgclf_evaluate "$(RUN)" $(ARGS)

compare: setup ## is run A better than run B: make compare A=name B=name [ARGS="--metric log_loss"]
	@$(BIN)/imgclf_compare "$(A)" "$(B)" $(ARGS)

leaderboard: setup ## all finished runs in one table and one plot
	@$(BIN)/imgclf_leaderboard $(ARGS)

export: setup ## write the modules from the notebooks, clean the notebooks, keep better readability figures
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean
	@$(BIN)/python tests/readability.py --keep > /dev/null

refresh: setup ## run notebooks on their miniatures and keep the small outputs: all, or one: make refresh NB=04_train
	@cd nbs && HF_HUB_OFFLINE=1 IMGCLF_RUNS=$$(mktemp -d) IMGCLF_RECORDS=$$(mktemp -d) ../$(BIN)/python ../tests/served.py ../$(BIN)/jupyter nbconvert --to notebook --execute --inplace $(if $(NB),$(NB:%=%.ipynb),*.ipynb */*.ipynb)
	@$(BIN)/nbdev_clean

gate: setup ## clean, exported, importable, in one order, tagged, of readable size
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_gate.py tests/test_imports.py -n 2 --dist loadgroup

test: gate ## the gate, every notebook, and the tests that a notebook cannot hold
	@mkdir -p .test_runs
	$(TESTENV) $(SERVED) nbdev_test
	$(TESTENV) $(SERVED) $(BIN)/python -m pytest --ignore tests/test_gate.py --ignore tests/test_imports.py -n 2 --dist loadgroup
	@rm -rf .test_runs

bench: setup ## speed against others on this machine, into runs/bench (about an hour; leave the machine alone meanwhile)
	@$(BIN)/python -m pip install --quiet -e '.[bench]'
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-long: setup ## the same, then accuracy and time on the five sets, and memory (another one to two hours)
	@$(BIN)/python -m pip install --quiet -e '.[bench]'
	@$(BIN)/python benchmarks/bench.py --long $(ARGS)

tables: setup ## write the tables of README and chapters, and the figures, from benchmarks/results (measures nothing)
	@$(BIN)/python benchmarks/tables.py

docs: setup ## build the site into _docs, stop at broken links (Python 3.11 or newer)
	@rm -rf _proc _docs
	@$(BIN)/python -W ignore -c 'from nbdev.serve import proc_nbs; proc_nbs(force=True)'
	@sed -i.bak '/"output-file: /d' _proc/*.ipynb _proc/*/*.ipynb && rm -f _proc/*.bak _proc/*/*.bak
	@sed 's#(nbs/#(#g' README.md > _proc/index.md && cp -r nbs/figures nbs/styles.css _proc/
	@cd _proc && ../$(BIN)/smalldocs check . && ../$(BIN)/smalldocs render --quiet --strict .
	@echo "the site is in _docs/index.html"

lab: setup ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab nbs
