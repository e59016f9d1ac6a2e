# Every verb of the project. `make help` lists them: `##@` begins a group, `##=` gives an example.
SHELL   := /bin/bash
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
DATASET ?= pc_parts_mini
ARCH    ?=
RUN     ?=
A       ?=
B       ?=
NB      ?=
# ARGS are further words of the command: split at spaces, 'quotes' keep words together
ARGS    ?=
# LOCK=1 installs exactly what requirements.lock lists
LOCK    ?=
# Values are texts, never code: make hands them on as they were given, through the environment, and
# recipes read them there, in quotes. So a `$`, a quote or $(shell …) in a folder's name is a name.
VALUES  := DATASET ARCH RUN A B NB ARGS
$(foreach name,$(VALUES),$(eval override $(name) := $$(value $(name))))
export $(VALUES)
# runs a command with the words of ARGS, before its -- if it has one
WORDS   := $(BIN)/python tests/with_args.py

# three processes at a time, each with one thread: half of the time of two goes by while a test waits for
# a process of its own, a signal or a server
TESTENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 IMGCLF_RUNS=$(CURDIR)/.test_runs IMGCLF_RECORDS=$(CURDIR)/.test_runs/records
# each in a process of its own: OpenVINO's and PyTorch's threads and a later fork in one process can end it
EXPORTED := tests/test_export.py tests/test_first_answer.py tests/test_predict.py
# their kernels are forked from one process that has torch and fastai loaded; `nbdev_test COMMAND` tests
# the notebooks, and then runs the command with the same server of kernels
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
.PHONY: help setup run fetch audit train evaluate predict compare leaderboard export refresh gate test bench bench-long tables docs check-docs lab \
	lock audit-deps check-names test-tools image check-image push-image

##@ Start
help: ## list the verbs
	@awk -F':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} \
		/^##= /{printf "  %-20s %s\n", "", substr($$0, 5)} \
		/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --no-compile: all 20,000 files would take a minute; only what the notebooks load is compiled, here
# and once, instead of in whatever runs first, or in two processes that run first together
LIBRARIES := $(BIN)/python -c 'from imgclf_nb.base.kernels import preload; preload()'
setup: $(VENV)/$(if $(filter-out 0,$(value LOCK)),.locked,.ready) ## make .venv with all requirements (once, 2 to 5 minutes)
##= make setup LOCK=1                exactly the versions of requirements.lock
$(VENV)/.ready: settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + ": make setup PYTHON=python3.12") if not (3,10) <= sys.version_info < (3,14) else 0'
	@echo "Setting up $(VENV) (2 to 5 minutes with a fast connection):"
	$(call quietly,making the environment,$(PYTHON) -m venv $(VENV))
	$(call quietly,updating pip,$(BIN)/python -m pip install --upgrade pip)
	$(call quietly,installing the package and its requirements,$(BIN)/python -m pip install --no-compile -e '.[dev]')
	$(call quietly,loading the libraries for the first time,$(LIBRARIES))
	@touch $@

# --no-build-isolation: the build uses the setuptools of the lock
$(VENV)/.locked: requirements.lock setup.py pyproject.toml
	@$(PYTHON) tests/dependencies.py check-machine
	@echo "Setting up $(VENV) from requirements.lock (2 to 5 minutes with a fast connection):"
	$(call quietly,making the environment,$(PYTHON) -m venv $(VENV))
	$(call quietly,installing the requirements by their hashes,$(BIN)/python -m pip install --no-compile --require-hashes --no-deps -r requirements.lock)
	$(call quietly,installing the package,$(BIN)/python -m pip install --no-deps --no-build-isolation -e .)
	$(call quietly,loading the libraries for the first time,$(LIBRARIES))
	@touch $(VENV)/.ready $@

run: setup ## train and evaluate on a synthetic miniature (needs no data and no hub)
	@HF_HUB_OFFLINE=1 $(BIN)/imgclf_run pc_parts_mini

lab: setup ## open nbs/START.ipynb in JupyterLab: from images to a result, step by step
##= make lab ARGS=--no-browser      prints the address instead
# JUPYTER_PREFER_ENV_PATH: the kernel of this environment comes before one of the user's; Lab asks no server for news
	@JUPYTER_PREFER_ENV_PATH=1 $(WORDS) $(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs/START.ipynb \
		--LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

##@ Your images
fetch: setup ## get a data set from its source, completely or not at all
##= make fetch DATASET=chest_xray
	@$(WORDS) $(BIN)/imgclf_fetch -- "$$DATASET"

audit: setup ## find a set's problems and its label ceiling; ends with a page
##= make audit DATASET=/my/images [ARGS="--groups names"]
	@$(WORDS) $(BIN)/imgclf_audit -- "$$DATASET"

train: setup ## train and evaluate: a name, a folder of class folders, or a CSV
##= make train DATASET=/my/images [ARCH=resnet18] [RUN=name] [ARGS="--minutes 5"]
	@$(WORDS) $(BIN)/imgclf_run $${ARCH:+"--arch=$$ARCH"} $${RUN:+"--run=$$RUN"} -- "$$DATASET"

evaluate: setup ## evaluate a run in full: metrics, robustness, saliency maps, model card
##= make evaluate RUN=name [ARGS="-p miss_cost 20"]
	@$(WORDS) $(BIN)/imgclf_evaluate -- "$$RUN"

predict: setup ## predict images with a run: a CSV with class, probability, decision of each
##= make predict RUN=name ARGS=/my/photos
	@$(WORDS) $(BIN)/imgclf_predict "$$RUN"

##@ Experiments
compare: setup ## is run A better than run B, by how much, and could it be chance
##= make compare A=name B=name [ARGS="--metric log_loss"]
	@$(WORDS) $(BIN)/imgclf_compare -- "$$A" "$$B"

##@ Look
leaderboard: setup ## rank all finished runs in one table and one plot
	@$(WORDS) $(BIN)/imgclf_leaderboard

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
	@cd nbs && books=(*.ipynb */*.ipynb) && if [ -n "$$NB" ]; then books=("$$NB.ipynb"); fi && JUPYTER_PREFER_ENV_PATH=1 HF_HUB_OFFLINE=1 IMGCLF_RUNS=$$(mktemp -d) IMGCLF_RECORDS=$$(mktemp -d) ../$(BIN)/python ../tests/served.py ../$(BIN)/jupyter nbconvert --to notebook --execute --inplace "$${books[@]}"
	@$(BIN)/nbdev_clean

gate: setup ## check that the notebooks are clean, exported and importable
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_gate.py tests/test_imports.py -n 2 --dist loadgroup

test: gate ## run the gate, every notebook and every test
	@mkdir -p .test_runs
	$(TESTENV) $(SERVED) nbdev_test $(BIN)/python -m pytest --ignore tests/test_gate.py --ignore tests/test_imports.py $(addprefix --ignore ,$(EXPORTED)) -n 3 --dist loadgroup
	@printf '%s\n' $(EXPORTED) | $(TESTENV) xargs -P 2 -n 1 $(BIN)/python -m pytest
	@rm -rf .test_runs

# what they are made and checked with stands apart, so that it changes nothing in the environment
$(VENV)/tools/.ready: settings.ini
	@mkdir -p $(VENV)
	$(call quietly,installing uv and pip-licenses and pip-audit,$(PYTHON) -m venv $(VENV)/tools && $(VENV)/tools/bin/python -m pip install uv pip-licenses pip-audit)
	@touch $@

lock: $(VENV)/tools/.ready ## write requirements.lock: all versions and hashes (Linux x86-64, Python 3.11)
##= make lock ARGS=--upgrade         newer versions too
	@$(VENV)/tools/bin/python tests/with_args.py $(VENV)/tools/bin/uv pip compile setup.py --extra dev --quiet --generate-hashes --no-annotate \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--python-platform x86_64-unknown-linux-gnu --python-version 3.11 --output-file requirements.lock
	@$(PYTHON) tests/dependencies.py check-lock

audit-deps: setup $(VENV)/tools/.ready ## list licences (fails on GPL) and known vulnerabilities (needs a network)
	@$(BIN)/python tests/dependencies.py licences $(VENV)/tools/bin/pip-licenses $(BIN)/python
	@$(BIN)/python tests/dependencies.py vulnerabilities $(VENV)/tools/bin/pip-audit

check-names: ## refuse values that are not plain words, for machines that others may ask
	@name='^[A-Za-z0-9_][A-Za-z0-9_.-]*$$' words='^(-p [a-z_]+ [A-Za-z0-9_.-]+)?$$'; \
	for each in DATASET ARCH RUN; do \
		[[ -z "$${!each}" || "$${!each}" =~ $$name ]] || { \
			echo "$$each may hold letters, digits, _ . and - only, and begins with no dot or dash."; exit 1; }; done; \
	[[ "$$ARGS" =~ $$words ]] || { echo "ARGS may be one -p NAME VALUE in plain words."; exit 1; }

test-tools: setup ## install what some tests need: a browser, PostgreSQL, hey (asks for sudo)
	$(call quietly,installing Playwright and axe-core and the schemas of Kubernetes,$(BIN)/python -m pip install -e '.[browser]')
	@sudo apt-get update -q && sudo apt-get install -y -q --no-install-recommends postgresql hey \
		$$(command -v chromium google-chrome > /dev/null || echo chromium)

image: ## build the serving image imgclf-serve (needs Docker)
	@docker build --target serve --tag imgclf-serve .

check-image: setup ## run the image on a read-only disk and ask it for a prediction (needs Docker)
	@VENV=$(VENV) deploy/check_image.sh

push-image: ## push the image under the name of the tag that is built, in a workflow
	@deploy/push_image.sh

bench: setup ## measure speed against others, into runs/bench (about an hour, machine idle)
	$(call quietly,installing the requirements of the benchmarks,$(BIN)/python -m pip install -e '.[bench]')
	@$(WORDS) $(BIN)/python benchmarks/bench.py

bench-long: setup ## also accuracy and time on the five sets, and memory (1 to 2 hours more)
	$(call quietly,installing the requirements of the benchmarks,$(BIN)/python -m pip install -e '.[bench]')
	@$(WORDS) $(BIN)/python benchmarks/bench.py --long
