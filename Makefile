# The first python3 of 3.11 to 3.13 on this machine; `make PYTHON=...` takes another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
EXAMPLE ?= examples/digits
IMAGE_PREFIX ?= steelyard
IMAGE_TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGES := base train predictor drift-detector

help:  ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

install: $(INSTALLED)  ## everything into .venv, from locked requirements

run: $(INSTALLED)  ## the main job on EXAMPLE (examples/digits): train, select, register, serve, drift
	@$(BIN)/steelyard run $(EXAMPLE)

serve: $(INSTALLED)  ## serve what `make run` selected, until Ctrl-C
	@$(BIN)/steelyard serve $(EXAMPLE)

test: $(INSTALLED)  ## all tests that need no cluster
	@$(BIN)/python -m pytest

lint: $(INSTALLED)  ## style and import rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

type: $(INSTALLED)  ## strict types
	@$(BIN)/mypy

compile: $(INSTALLED)  ## pipelines for a registry and tag into build/pipelines; without them the committed ones
	@$(BIN)/steelyard compile --output $(if $(filter command environment,$(origin IMAGE_PREFIX) $(origin IMAGE_TAG)),build/pipelines,pipelines/compiled) \
		--image-prefix $(IMAGE_PREFIX) --image-tag $(IMAGE_TAG)

manifests: $(INSTALLED)  ## Kubernetes manifests likewise, into build/manifests or manifests/rendered
	@$(BIN)/python manifests/render.py --output $(if $(filter command environment,$(origin IMAGE_PREFIX) $(origin IMAGE_TAG)),build/manifests,manifests/rendered) \
		--image-prefix $(IMAGE_PREFIX) --image-tag $(IMAGE_TAG)

images:  ## all container images, with docker
	docker build $(DOCKER_BUILD_ARGS) -f components/Dockerfile --target base -t $(IMAGE_PREFIX)/base-python:$(IMAGE_TAG) .
	docker build $(DOCKER_BUILD_ARGS) -f components/Dockerfile --target train -t $(IMAGE_PREFIX)/train-python:$(IMAGE_TAG) .
	docker build $(DOCKER_BUILD_ARGS) -f serving/Dockerfile --target predictor -t $(IMAGE_PREFIX)/predictor:$(IMAGE_TAG) .
	docker build $(DOCKER_BUILD_ARGS) -f serving/Dockerfile --target drift-detector -t $(IMAGE_PREFIX)/drift-detector:$(IMAGE_TAG) .

bench: $(INSTALLED)  ## each comparison with a peer, side by side
	@for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

LOCK = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --quiet --no-header --no-annotate --no-emit-index-url
lock: $(INSTALLED)  ## requirements/*.txt anew from pyproject.toml: all together first, then each part under it
	@$(LOCK) --all-extras --generate-hashes -o requirements/dev.txt
	@$(LOCK) --all-extras -o build/constraints.txt
	@$(LOCK) -c build/constraints.txt --generate-hashes --extra evaluate --extra pipeline -o requirements/base.txt
	@$(LOCK) -c build/constraints.txt --generate-hashes --extra train --extra pipeline -o requirements/train.txt
	@$(LOCK) -c build/constraints.txt --generate-hashes --extra serve -o requirements/predictor.txt
	@$(LOCK) -c build/constraints.txt --generate-hashes --extra drift -o requirements/drift-detector.txt

$(INSTALLED): requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "steelyard needs Python 3.11, 3.12 or 3.13: install one, or run make PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { echo "Python's venv is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

.PHONY: help install run serve test lint type compile manifests images bench lock
