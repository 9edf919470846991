# One word per chore; CI runs the same words.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
UV := var/tools/uv/bin/uv
export PYTHONPATH := $(CURDIR):$(CURDIR)/plugins

.PHONY: help install check format test unit integration e2e demo bench verdicts env up down logs status local-up local-down lock

help: ## List the words
	@grep -hE '^[a-z0-9. _-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9._-]+).*## (.*)/  make \1\t\2/' | expand -t 20

install: $(VENV)/.installed ## Install everything into this folder (.venv, var/tools)

$(VENV)/.installed: requirements.txt | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --no-python-downloads --python "$$(.ci/python)" $(VENV)
	@echo "installing $$(grep -c == requirements.txt) locked packages into $(VENV)"
	@VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet --compile-bytecode requirements.txt
	@touch $@

$(UV):
	@echo "installing uv into var/tools"
	@mkdir -p var/tools
	@"$$(.ci/python)" -m venv var/tools/uv >/dev/null 2>&1 || { rm -rf var/tools/uv; .ci/apt python3-venv && "$$(.ci/python)" -m venv var/tools/uv; }
	@var/tools/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

check: install ## Lint, format check, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: check unit integration e2e ## Everything: check and all tiers that this machine can run

unit: install ## Tests that need nothing (under a minute)
	$(BIN)/pytest tests/unit -n logical --maxprocesses 4

integration: install ## One real service each: Kafka, NGINX, Prometheus, Airflow, gunicorn, DVC
	$(BIN)/pytest tests/integration

e2e: install ## The demo's scenarios from start to end
	$(BIN)/pytest tests/e2e

demo: install ## The whole loop, live: SCENARIO=good|slow|bad-rmse, ONCE=1 to end after the verdict
	@$(BIN)/python -m pipelines demo --scenario "$(or $(SCENARIO),good)" $(if $(filter-out 0,$(ONCE)),--once)

bench: install ## Ours beside the alternatives, as ratios; ONLY=events|validating|clean_days|telemetry|ranking|training|serving|receipts|releases|images
	$(BIN)/python -m tests.benchmarks.bench $(ONLY)

verdicts: install ## How often the judge of canaries errs, by simulation; RUNS=500 to shorten
	@$(BIN)/python -m tests.benchmarks.verdicts $(RUNS)

# Names the code in images, where there is no git.
export MARQUEE_CODE_COMMIT := $(shell git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null)

env: ## Containers: .env from .env.example, with secrets drawn for this machine; what is there stays
	@docker/make-env

.env:
	@docker/make-env

up: .env ## Containers: build what changed, start everything, wait until it is healthy; PROFILES=audience,catchers,workers
	@COMPOSE_PROFILES="$(PROFILES)" docker/one-by-one
	@COMPOSE_PROFILES="$(PROFILES)" docker compose up -d --build --wait
	@docker compose ps --format 'table {{.Service}}\t{{.Status}}\t{{.Ports}}'

down: ## Containers: stop and remove them; what they keep stays
	@docker compose --profile '*' down --remove-orphans

logs: ## Containers: follow what they say; SERVICE=keeper for one
	@docker compose logs --follow --tail 100 $(SERVICE)

status: ## Containers: which are there, who serves what, the latest releases
	@docker compose ps --all --format 'table {{.Service}}\t{{.Status}}'
	@docker compose exec -T airflow-scheduler python -m pipelines status

local-up: install ## Start the one-machine stack in the background, without Docker
	@$(BIN)/python -m pipelines up

local-down: ## Stop the one-machine stack and the demo
	@$(BIN)/python -m pipelines down

lock: $(UV) ## Resolve the dependencies again: requirements.txt, serving/requirements.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --no-annotate --upgrade \
		--custom-compile-command "make lock" --group dev pyproject.toml -o requirements.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --no-annotate \
		--custom-compile-command "make lock" -c requirements.txt serving/requirements.in -o serving/requirements.txt

.env.example: pipelines/settings.py docker/env.example | install
	$(BIN)/python -m pipelines settings > $@
