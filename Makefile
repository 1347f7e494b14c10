# The first python3 of 3.11 to 3.13 on this machine; `make PYTHON=...` takes another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
unexport PYTHONDONTWRITEBYTECODE  # without bytecode every process would start in 27 s instead of 8
BIN := .venv/bin
INSTALLED := .venv/.installed
EXAMPLE ?= examples/digits
IMAGE_PREFIX ?= steelyard
# An image's tag says which source is in it; `-dirty` and a hash of what differs where that is not all committed.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
DIRTY = dirty-$(shell { git status --porcelain; git diff HEAD; } | git hash-object --stdin | cut -c1-8)
REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null)$(if $(shell git status --porcelain 2>/dev/null),-$(DIRTY))
IMAGE_TAG := $(or $(IMAGE_TAG),$(VERSION)$(addprefix -,$(REVISION)))

help:  ## what each target does
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

install: $(INSTALLED)  ## everything into .venv, from locked requirements

run: $(INSTALLED)  ## the main job on EXAMPLE (examples/digits): train, select, register, serve, drift
	@$(BIN)/steelyard run $(EXAMPLE)

serve: $(INSTALLED)  ## serve what `make run` selected, until Ctrl-C
	@$(BIN)/steelyard serve $(EXAMPLE)

test: $(INSTALLED)  ## all tests that need no cluster
	@$(BIN)/python -m pytest --ignore tests/e2e -n logical --maxprocesses 4 --dist loadfile

e2e: $(INSTALLED)  ## the tests that need a cluster: docs/e2e.md
	@$(BIN)/python -m pytest tests/e2e -v --durations=0

lint: $(INSTALLED)  ## style and import rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

type: $(INSTALLED)  ## strict types
	@$(BIN)/mypy

compile: $(INSTALLED)  ## the release's pipelines anew into pipelines/compiled
	@$(BIN)/steelyard compile --output pipelines/compiled

manifests: $(INSTALLED)  ## the release's Kubernetes manifests anew into manifests/rendered, with kubectl
	@$(BIN)/python manifests/render.py

# $(call build_image,folder of the Dockerfile,target,name)
define build_image
docker build $(DOCKER_BUILD_ARGS) -f $(1)/Dockerfile --target $(2) -t $(IMAGE_PREFIX)/$(3):$(IMAGE_TAG) .
$(if $(IMAGE_LOAD),$(IMAGE_LOAD) $(IMAGE_PREFIX)/$(3):$(IMAGE_TAG))
endef

images:  ## all container images, with docker: IMAGE_PREFIX/NAME:IMAGE_TAG, each handed to IMAGE_LOAD; then `make deployment`
	$(call build_image,components,base,base-python)
	$(call build_image,components,train,train-python)
	$(call build_image,serving,predictor,predictor)
	$(call build_image,serving,drift-detector,drift-detector)
	@$(MAKE) --no-print-directory deployment IMAGE_PREFIX=$(IMAGE_PREFIX) IMAGE_TAG=$(IMAGE_TAG)

deployment: $(INSTALLED)  ## pipelines and manifests for the images of IMAGE_PREFIX and IMAGE_TAG, into build/
	@$(BIN)/steelyard compile --output build/pipelines --image-prefix $(IMAGE_PREFIX) --image-tag $(IMAGE_TAG) $(addprefix --gpus ,$(GPUS))
	@$(BIN)/python manifests/render.py --output build/manifests --image-prefix $(IMAGE_PREFIX) --image-tag $(IMAGE_TAG)

print-image-tag:
	@echo $(IMAGE_TAG)

bench: $(INSTALLED)  ## each comparison with a peer, side by side
	@for file in benchmarks/[!_]*.py; do $(BIN)/python $$file || exit 1; done

LOCK = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet --no-header \
	--no-annotate --no-emit-index-url
PART = $(LOCK) --constraints requirements/dev.txt
lock: $(INSTALLED)  ## requirements/*.txt anew from pyproject.toml: all together first, then each part under it
	@$(LOCK) --all-extras -o requirements/dev.txt
	@$(PART) --extra evaluate --extra rasters --extra pipeline --extra server -o requirements/base.txt
	@$(PART) --extra train --extra pipeline -o requirements/train.txt
	@$(PART) --extra serve -o requirements/predictor.txt
	@$(PART) --extra drift -o requirements/drift-detector.txt

$(INSTALLED): requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "steelyard needs Python 3.11, 3.12 or 3.13: install one, or run make PYTHON=/path/to/it"; exit 1; }
	@rm -rf .venv  # a link to an environment shared with others is removed, not followed
	@$(PYTHON) -m venv .venv || { echo "Python's venv is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

.PHONY: help install run serve test e2e lint type compile manifests images deployment print-image-tag bench lock
