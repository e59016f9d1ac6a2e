# Every verb of the project. `make help` lists them: `##@` begins a group, `##=` gives an example.
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

# $(call quietly,what is done,command): one line with a dot every 5 s and the time; its log is shown only if it fails
LOG := $(VENV)/setup.log
define quietly
@mkdir -p $(VENV); printf '  %s ' '$(1)'; SECONDS=0; \
	(while sleep 5; do printf .; done) & trap "kill $$! 2>/dev/null" EXIT; \
	if $(2) > $(LOG) 2>&1; then echo " $$SECONDS s"; else \
		printf ' failed after %s s:\n\n' $$SECONDS; tail -n 12 $(LOG) | cut -c1-240; \
		printf '\nThe whole log is %s. The same command tries again.\n' $(LOG); exit 1; fi
endef

.DEFAULT_GOAL := help
.PHONY: help setup run fetch audit train evaluate compare leaderboard export refresh gate test bench bench-long tables docs check-docs lab

##@ Start
help: ## list the verbs
	@awk -F':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} \
		/^##= /{printf "  %-20s %s\n", "", substr($$0, 5)} \
		/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make .venv with all requirements (once, 2 to 5 minutes)
$(VENV)/.ready: settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + ": make setup PYTHON=python3.12") if not (3,10) <= sys.version_info < (3,14) else 0'
	@echo "Setting up $(VENV) (2 to 5 minutes with a fast connection):"
	$(call quietly,making the environment,$(PYTHON) -m venv $(VENV))
	$(call quietly,updating pip,$(BIN)/python -m pip install --upgrade pip)
	$(call quietly,installing the package and its requirements,$(BIN)/python -m pip install -e '.[dev]')
	@touch $@

run: setup ## train and evaluate on a synthetic miniature (needs no data and no hub)
	@HF_HUB_OFFLINE=1 $(BIN)/imgclf_run pc_parts_mini

lab: setup ## open nbs/START.ipynb in JupyterLab: from images to a result, step by step
##= make lab ARGS=--no-browser      prints the address instead
# JUPYTER_PREFER_ENV_PATH: the kernel of this environment comes before one of the user's
	@JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs/START.ipynb $(ARGS)

##@ Your images
fetch: setup ## get a data set from its source, completely or not at all
##= make fetch DATASET=chest_xray
	@$(BIN)/imgclf_fetch "$(DATASET)" $(ARGS)

audit: setup ## find a set's problems and its label ceiling; ends with a page
##= make audit DATASET=/my/images [ARGS="--groups names"]
	@$(BIN)/imgclf_audit "$(DATASET)" $(ARGS)

train: setup ## train and evaluate: a name, a folder of class folders, or a CSV
##= make train DATASET=/my/images [ARCH=resnet18] [RUN=name] [ARGS="-p epochs 5"]
	@$(BIN)/imgclf_run "$(DATASET)" $(if $(ARCH),--arch $(ARCH)) $(if $(RUN),--run "$(RUN)") $(ARGS)

evaluate: setup ## evaluate a run in full: metrics, robustness, saliency maps, model card
##= make evaluate RUN=name [ARGS="-p miss_cost 20"]
	@$(BIN)/imgclf_evaluate "$(RUN)" $(ARGS)

##@ Experiments
compare: setup ## is run A better than run B, by how much, and could it be chance
##= make compare A=name B=name [ARGS="--metric log_loss"]
	@$(BIN)/imgclf_compare "$(A)" "$(B)" $(ARGS)

##@ Look
leaderboard: setup ## rank all finished runs in one table and one plot
	@$(BIN)/imgclf_leaderboard $(ARGS)

tables: setup ## write the tables and figures of results from benchmarks/results
	@$(BIN)/python benchmarks/tables.py

docs: setup ## build the site into _docs (Python 3.11 or newer)
	@rm -rf _proc _docs
	@$(BIN)/python -W ignore -c 'from nbdev.serve import proc_nbs; proc_nbs(force=True)'
	@sed -i.bak '/"output-file: /d' _proc/*.ipynb _proc/*/*.ipynb && rm -f _proc/*.bak _proc/*/*.bak
	@sed 's#(nbs/#(#g' README.md > _proc/index.md && cp -r nbs/figures nbs/styles.css _proc/
	@cd _proc && ../$(BIN)/smalldocs check . && ../$(BIN)/smalldocs render --quiet --strict .
	@$(BIN)/python tests/website.py slim _docs
	@echo "the site is in _docs/index.html"

check-docs: setup ## open each page of _docs in headless Chromium: laptop, phone, light, dark
	@$(BIN)/python tests/website.py check _docs

##@ Develop
export: setup ## write the modules from the notebooks, clean the notebooks
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean
	@$(BIN)/python tests/readability.py --keep > /dev/null

refresh: setup ## run notebooks on their miniatures and keep the outputs: all, or one
##= make refresh NB=04_train
	@cd nbs && JUPYTER_PREFER_ENV_PATH=1 HF_HUB_OFFLINE=1 IMGCLF_RUNS=$$(mktemp -d) IMGCLF_RECORDS=$$(mktemp -d) ../$(BIN)/python ../tests/served.py ../$(BIN)/jupyter nbconvert --to notebook --execute --inplace $(if $(NB),$(NB:%=%.ipynb),*.ipynb */*.ipynb)
	@$(BIN)/nbdev_clean

gate: setup ## check that the notebooks are clean, exported and importable
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_gate.py tests/test_imports.py -n 2 --dist loadgroup

test: gate ## run the gate, every notebook and every test
	@mkdir -p .test_runs
	$(TESTENV) $(SERVED) nbdev_test
	$(TESTENV) $(SERVED) $(BIN)/python -m pytest --ignore tests/test_gate.py --ignore tests/test_imports.py -n 2 --dist loadgroup
	@rm -rf .test_runs

bench: setup ## measure speed against others, into runs/bench (about an hour, machine idle)
	$(call quietly,installing the requirements of the benchmarks,$(BIN)/python -m pip install -e '.[bench]')
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-long: setup ## also accuracy and time on the five sets, and memory (1 to 2 hours more)
	$(call quietly,installing the requirements of the benchmarks,$(BIN)/python -m pip install -e '.[bench]')
	@$(BIN)/python benchmarks/bench.py --long $(ARGS)
