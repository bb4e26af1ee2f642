# `make` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OMNI := $(BIN)/lightning_omni
PRESET ?= mini
OUT ?= data/$(PRESET)
# packages whose tensor shapes are checked at run time in tests
SHAPES := --jaxtyping-packages=lightning_omni.nn,lightning_omni.diffusion,lightning_omni.samplers,lightning_omni.tokenizers,lightning_omni.losses,lightning_omni.modules,beartype.beartype

# modules are compiled when they are first imported: those in use take a fraction of the time of all
PIP := $(BIN)/pip install --quiet $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo prep-data verify-data test test-slow lint types bench gpu-check fault-report audit docs tensorboard clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/lightning_omni: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[prep,eval]'
	@touch $@

$(VENV)/setup-dev: $(BIN)/lightning_omni
	$(PIP) -e '.[prep,eval,dev,docs]'
	@touch $@

setup: $(BIN)/lightning_omni  ## make .venv with what prepares data, trains, generates and evaluates

setup-dev: $(VENV)/setup-dev  ## add what tests, checks and documents; other targets do so when they need it

demo: setup  ## data, tokenizers, three stages, evaluation and report, 14 to 35 minutes
	$(OMNI) prep-data --preset demo --out data/demo
	mkdir -p runs/demo
	@echo "training both tokenizers; the image tokenizer's messages go to runs/demo/image_tokenizer.log"
	@OMP_NUM_THREADS=1 $(OMNI) fit --config recipes/demo/image_tokenizer.yaml > runs/demo/image_tokenizer.log 2>&1 & \
	other=$$!; trap 'kill $$other 2>/dev/null' INT TERM; \
	$(OMNI) fit --config recipes/demo/speech_tokenizer.yaml || { kill $$other; exit 1; }; \
	wait $$other || { tail -n 3 runs/demo/image_tokenizer.log; exit 1; }
	$(OMNI) fit --config recipes/demo/stage1.yaml
	$(OMNI) fit --config recipes/demo/stage2.yaml
	$(OMNI) fit --config recipes/demo/stage3.yaml
	OMP_NUM_THREADS=1 $(OMNI) evaluate --config recipes/eval/emojiworld_demo.yaml  # one for answers, one for scores
	$(OMNI) report --run runs/demo

prep-data: setup  ## build shards: PRESET=smoke|demo|mini, or CORPUS=... SOURCE=... OUT=...
	$(OMNI) prep-data --out $(OUT) $(if $(CORPUS),--corpus $(CORPUS) --source $(SOURCE),--preset $(PRESET))

verify-data: setup  ## read every shard of OUT (data/PRESET) and its codes, and list what is damaged
	$(OMNI) verify-data $(OUT)

test: setup-dev  ## unit tests, minutes; COVERAGE=1 measures coverage and fails below its threshold
	$(BIN)/python -m pytest -n 2 --dist loadgroup --timeout 900 $(SHAPES) $(if $(COVERAGE),--cov --cov-report=term)

test-slow: setup-dev  ## the long tests too
	$(BIN)/python -m pytest -m slow

lint: setup-dev  ## ruff and the import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: setup-dev  ## mypy --strict
	$(BIN)/mypy

bench: setup  ## speed of training and sampling beside a peer, in runs/bench
	$(PIP) -e '.[bench]'
	$(OMNI) bench --suite train
	$(OMNI) bench --suite sample

gpu-check: setup  ## devices, speed and training on a GPU, in runs/gpu_check; TINY=1 small, on a CPU
	test -f data/smoke/manifest.json || $(OMNI) prep-data --preset smoke --out data/smoke
	$(BIN)/python tests/gpu_check/run.py --out runs/gpu_check $(if $(TINY),--device cpu --tiny)

fault-report: setup-dev  ## cause every fault of docs/results/faults.md; hours, goes on where it ended
	$(BIN)/python tests/faults/report.py

audit: setup-dev  ## known faults of the packages that CI installs, asked of PyPI
	$(BIN)/pip install --quiet 'pip-audit>=2.10,<3'
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip -r .ci/requirements.txt || { \
	  echo "not passed: a package has a known fault, or PyPI was not reached or does not know it (see above)"; exit 1; }

docs: setup-dev  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tensorboard:  ## watch the runs
	$(BIN)/tensorboard --logdir runs

clean:  ## remove runs, built documentation and caches; data and .venv stay
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
