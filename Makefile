# Every target sets up what it needs first. `make help` lists them, and the variables that may be set.

VENV ?= .venv
BASE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
DEVICE ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
RANKS ?= $(if $(filter gpu,$(DEVICE)),$(shell nvidia-smi -L | wc -l),4)
TRAIN_ARGS ?= --train.epochs 5
PIP_ARGS ?=
TORCH_INDEX ?=
SBOM ?= sbom.json
TEST_WORKERS ?= 2
FUZZ_CASES ?= 3
MUTANTS_EACH ?= 4
MUTANTS_SEED ?= 0
MUTANTS_OF ?= models datapipes training/evaluation studies/statistics.py
PYTEST_ARGS ?=
OUT ?= gpu-check.json
GPU_CHECK_ARGS ?=

# Simply expanded, so that one `make` means one run.
RUN := $(or $(RUN),runs/$(shell date +%Y%m%d-%H%M%S))
EXPORT ?= exports/$(notdir $(RUN))

ifeq ($(filter cpu gpu,$(DEVICE)),)
$(error DEVICE is '$(DEVICE)': expected cpu or gpu)
endif

PYTHON := $(abspath $(VENV))/bin/python
INSTALLING := $(VENV)/.installing
# What is killed leaves a marker behind: pip would take half a package for a whole one.
GUARDED := guarded() { touch $(INSTALLING); "$$@"; status=$$?; [ $$status -gt 128 ] || rm -f $(INSTALLING); \
	return $$status; }; guarded
PIP_INSTALL := $(GUARDED) $(PYTHON) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
# Every package is pinned, with the hashes of its files: nothing is left to resolve.
PIP_LOCKED := $(PIP_INSTALL) --no-deps --require-hashes
SETUP := $(VENV)/.setup-$(DEVICE)
EXTRAS := $(VENV)/.setup-extras
DEV := $(VENV)/.setup-dev
MUTANTS := $(VENV)/.setup-mutants
AXE := $(VENV)/axe-core
AXE_VERSION := 4.14.1
AXE_SHA512 := 1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5
OTHER_FBGEMM := $(if $(filter gpu,$(DEVICE)),fbgemm-gpu-cpu,fbgemm-gpu)
ROOMS := common datapipes models training studies retrieval components benchmarks
# mypy and MkDocs look for a folder named `skipwise`: this one holds links to the rooms, and nothing else to search.
NAMESPACE := $(abspath $(VENV))/src

# torchx starts `torchrun` by name.
export PATH := $(abspath $(VENV))/bin:$(PATH)

.DELETE_ON_ERROR:
.PHONY: help setup extras dev train test tests soak gpu-check mutants check lint types imports docs site chromium axe doctor lock sbom advisories clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  DEVICE=cpu|gpu   which wheels; gpu where an NVIDIA driver answers"
	@echo "  RANKS=4          processes that train; on gpu one for each card"
	@echo "  TRAIN_ARGS=...   to train; by default '$(TRAIN_ARGS)', enough to see it learn"
	@echo "  RUN=runs/NAME    the run directory; a new one for each make"
	@echo "  VENV=.venv       the virtual environment, made with BASE_PYTHON=python3.11"
	@echo "  PIP_ARGS=...     to pip install"
	@echo "  TORCH_INDEX=...  the index for torch's CPU build alone (Python 3.11, x86-64 Linux), where pip's own lacks it:"
	@echo "                   TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	@echo "  TEST_WORKERS=2   processes that run tests side by side; many tests start ranks of their own"
	@echo "  PYTEST_ARGS=...  to pytest"
	@echo "  GPU_CHECK_ARGS=... to gpu-check; --small for tiny sizes, --sections tests step for some of it"
	@echo "  FUZZ_CASES=3     malformed inputs of make soak, as a multiple of the number in tests/fuzz; make test tries a fifth"

setup: $(SETUP)  ## install the pinned packages into the virtual environment

ifneq ($(wildcard $(INSTALLING)),)
.PHONY: $(SETUP)
endif

# A change of device takes torch out too: `torch==X` is met by the build for the other device.
$(SETUP): requirements/common.txt requirements/$(DEVICE).txt requirements/torchrec.txt setup.py
	@echo "Installing the $(DEVICE) set into $(VENV): a minute or two"
	@if [ -e $(INSTALLING) ]; then \
		echo "An installation into $(VENV) was cut off, so it starts afresh"; \
		$(BASE_PYTHON) -m venv --clear --without-pip $(VENV); fi
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { mkdir -p $(VENV); $(GUARDED) $(BASE_PYTHON) -m venv $(VENV); }
	@rm -f $(VENV)/.setup-cpu $(VENV)/.setup-gpu
	@if $(PYTHON) -m pip show --quiet $(OTHER_FBGEMM) 2>/dev/null; then \
		$(GUARDED) $(PYTHON) -m pip uninstall --quiet --yes fbgemm-gpu fbgemm-gpu-cpu torch; fi
	@$(PIP_LOCKED) -r requirements/common.txt -r requirements/$(DEVICE).txt -r requirements/torchrec.txt
	@if [ $(DEVICE) = cpu ] && { $(PIP_LOCKED) $(TORCH_INDEX:%=--index-url %) -r requirements/torch-cpu.txt 2>/dev/null; }; then :; else \
		echo "Installing torch as PyPI has it, on Linux with CUDA's libraries"; \
		$(PIP_LOCKED) -r requirements/torch.txt -r requirements/cuda.txt; fi
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@rm -rf $(NAMESPACE) && mkdir -p $(NAMESPACE)/skipwise
	@ln -s $(addprefix $(CURDIR)/,$(ROOMS) __init__.py __main__.py py.typed) $(NAMESPACE)/skipwise
	@touch $@

extras: $(EXTRAS)  ## install FAISS, the service, ONNX and the clients of Qdrant and PostgreSQL besides

$(EXTRAS): requirements/extras.txt $(SETUP)
	@$(PIP_LOCKED) -r requirements/extras.txt
	@touch $@

dev: $(DEV)  ## set up for development: all packages, and the commit hooks in a git checkout
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(PYTHON) -m pre_commit install; fi

$(DEV): requirements/dev.txt $(EXTRAS)
	@$(PIP_LOCKED) -r requirements/dev.txt
	@touch $@

train: $(SETUP)  ## train on the sample, which the first run generates, then export and show the HR table
	torchx --log_level WARNING run dist.ddp -j 1x$(RANKS) train --run-dir $(RUN) $(TRAIN_ARGS)
	$(PYTHON) -m skipwise export --run $(RUN) --output $(EXPORT) --overwrite
	$(PYTHON) -m skipwise show --run $(RUN)
	@echo "The sample is synthetic: these figures show that training works, and say nothing of real listeners."

test: check  ## check, then run the tests
	@$(MAKE) --no-print-directory tests

tests: $(DEV) chromium axe  ## run the tests alone; one file: make tests PYTEST_ARGS=tests/models/test_heads.py
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

soak: $(DEV) chromium  ## run the long tests: fuzzing, kills, and jobs of Slurm and Spark where these are installed
	@SKIPWISE_FUZZ_CASES=$(FUZZ_CASES) OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "" --timeout 3600 \
		tests/fuzz tests/training/run/test_killed.py tests/components/test_slurm.py \
		tests/retrieval/serve/test_soak.py tests/datapipes/test_shards.py $(PYTEST_ARGS)

gpu-check: $(DEV)  ## run on a GPU what only a GPU can show (tests, steps, ranking, a training), into one JSON, OUT=gpu-check.json
	@$(PYTHON) -m skipwise.benchmarks gpu-check --output $(OUT) $(GPU_CHECK_ARGS)

mutants: $(MUTANTS)  ## try changes that a test should notice, on a copy: MUTANTS_EACH=4 a module of MUTANTS_OF=...; hours for all
	@OMP_NUM_THREADS=1 $(PYTHON) tests/mutants.py $(MUTANTS_EACH) $(MUTANTS_SEED) $(MUTANTS_OF)

$(MUTANTS): requirements/mutants.txt $(DEV)
	@$(PIP_LOCKED) -r requirements/mutants.txt
	@touch $@

check: $(DEV)  ## lint, format, types, import rules and the strict build of the documentation
	@$(MAKE) --no-print-directory --keep-going --jobs 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) lint types imports docs

lint: $(DEV)  ## run ruff
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

types: $(DEV)  ## run mypy over the product
	@cd $(NAMESPACE) && $(PYTHON) -m mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache \
		-m skipwise $(ROOMS:%=-p skipwise.%)

imports: $(DEV)  ## check which room imports which
	@$(VENV)/bin/lint-imports

docs: $(DEV)  ## build the documentation strictly, and keep nothing
	@site=$$(mktemp -d) && trap 'rm -rf "$$site"' EXIT && \
		NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(NAMESPACE) $(PYTHON) -m mkdocs build --strict --site-dir "$$site"

site: $(DEV)  ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(NAMESPACE) $(PYTHON) -m mkdocs build --strict

# The page's tests need a browser. On CI, where nobody reads what is missing, one is installed if that is possible.
chromium:
	@for name in "$$CHROMIUM" chromium chromium-browser google-chrome; do \
		if command -v "$$name" >/dev/null; then exit; fi; done; \
	if [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the page's tests"; \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium >/dev/null && exit; fi; \
	echo "No Chromium, so the page's tests are skipped: apt-get install chromium, or name one in CHROMIUM"

# What checks the page's accessibility. It is npm's alone, and no part of the product.
axe:
	@if [ -e $(AXE)/axe-core-$(AXE_VERSION).tgz ] && [ -e $(AXE)/package/axe.min.js ]; then exit; fi; \
	if command -v npm >/dev/null && rm -rf $(AXE) && mkdir -p $(AXE) && (cd $(AXE) && \
		npm pack --silent --fetch-retries 0 --fetch-timeout 20000 axe-core@$(AXE_VERSION) >/dev/null && \
		echo "$(AXE_SHA512)  axe-core-$(AXE_VERSION).tgz" | sha512sum --check --quiet && \
		tar --extract --gzip --file axe-core-$(AXE_VERSION).tgz package/axe.min.js); then exit; fi; \
	rm -rf $(AXE); echo "No axe-core from npm, so what it checks is skipped"

doctor: $(SETUP)  ## check versions, devices and the sharding plan
	@$(PYTHON) -m skipwise doctor

# torch-cpu.txt stays as it is: its file is on no index that uv reads here.
lock:  ## write the hashes again after a pin has changed; needs uv
	@for name in $(filter-out torch-cpu,$(basename $(notdir $(wildcard requirements/*.txt)))); do \
		uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header --universal \
			--python-version 3.11.5 requirements/$$name.txt --output-file requirements/$$name.txt; done

sbom: $(SETUP)  ## write sbom.json, a CycloneDX bill of the packages of the virtual environment
	@$(PYTHON) requirements/sbom.py > $(SBOM)

advisories:  ## check every pin for known advisories; needs pip-audit
	@pip-audit --strict --require-hashes --disable-pip $(patsubst %,--requirement %,\
		$(filter-out requirements/torch-cpu.txt,$(wildcard requirements/*.txt)))

clean:  ## remove caches and build output; data, runs, exports and the virtual environment stay
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
