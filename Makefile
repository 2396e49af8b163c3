# `make help` explains the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# `compose` where a Docker engine answers, else `local`. MODE=local forces local mode.
MODE ?= $(shell docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 && echo compose || echo local)
# The host's commands need only the standard library, so that Compose mode installs nothing; local mode needs the packages.
HOST := PYTHONPATH=docker PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m local
LOCAL := PYTHONPATH=docker $(BIN)/python -m local
LOCK := $(VENV)/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"
PEERS := $(patsubst requirements/bench-%.in,%,$(wildcard requirements/bench-*.in))
COMPOSE_SETS := compose.yaml compose.yaml:compose.override.yaml compose.yaml:docker/compose.trial.yaml
SOURCES := config services tests docker/local

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  MODE=local   use local processes although a Docker engine answers'

# --- the stack ----------------------------------------------------------------------------------

.PHONY: up
up: secrets ## Start everything, wait until it is healthy, and show how to use it
	@$(MAKE) up-$(MODE)

.PHONY: up-compose
up-compose:
	@docker compose build --quiet migrate # one build serves all: they share the image
	@docker compose --progress quiet up --detach --wait --remove-orphans
	@$(HOST) welcome --mode compose

.PHONY: up-local
up-local: $(INSTALLED)
	@echo '$(if $(filter file,$(origin MODE)),No Docker engine answers: )Starting the services as local processes.'
	@$(LOCAL) up
	@$(HOST) welcome --mode local

.PHONY: down
down: ## Stop everything; data is kept, VOLUMES=1 removes it
	@if [ -e .run/supervisord.pid ]; then $(LOCAL) down $(if $(VOLUMES),--volumes); fi
	@$(if $(filter compose,$(MODE)),docker compose down --remove-orphans $(if $(VOLUMES),--volumes),:)

.PHONY: ps
ps: ## Show each service and its health
	@$(if $(filter compose,$(MODE)),docker compose ps --all,$(LOCAL) ps)

.PHONY: logs
logs: ## Follow the logs; SERVICE=api for one service
	@$(if $(filter compose,$(MODE)),docker compose logs --follow --tail 100 $(SERVICE),$(LOCAL) logs $(SERVICE))

.PHONY: watch
watch: up ## Start everything, then restart workers whenever their source changes (the API reloads by itself)
	@$(if $(filter compose,$(MODE)),docker compose watch --no-up,$(LOCAL) watch)

.PHONY: secrets
secrets: ## Write .env with generated secrets if there is none, and the secret files made from it
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Penstock needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(HOST) secrets

.PHONY: key
key: secrets ## Print the API key of .env; NAME=alice makes another one
	@$(if $(NAME),$(if $(filter compose,$(MODE)),docker compose exec --no-TTY api,$(LOCAL) run api) python -m services.api.keys create --name '$(NAME)',$(HOST) key)

.PHONY: env-example
env-example: $(INSTALLED) ## Write .env.example and docs/configuration.md from the settings' docstrings
	@$(BIN)/python -m config --write

.PHONY: pipeline
pipeline: ## Start a new pipeline that works, with its test: NAME=my_pipeline
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m services.pipelines.scaffold '$(NAME)'

# --- checks -------------------------------------------------------------------------------------

# What leaves a core idle goes side by side; each shows its lines when it has ended.
BOTH := --jobs 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
.PHONY: test
test: ## Run everything: check, unit, integration, and end to end in containers and as local processes
	@[[ $${CI:-} != true || $(MODE) == compose ]] || { echo 'CI=true, but no Docker engine answers' >&2; exit 1; }
	@$(MAKE) $(BOTH) check test-unit
	@$(MAKE) test-integration
	@$(MAKE) $(BOTH) $(if $(filter compose,$(MODE)),test-compose) test-local
	@$(MAKE) test-chaos-$(MODE)

.PHONY: check
check: $(INSTALLED) secrets ## Lint, check types and layers, and check the files that Docker and Compose read
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check --quiet $(SOURCES)
	MYPYPATH=docker $(BIN)/mypy -p config -p services -p local
	$(BIN)/lint-imports
	$(BIN)/deptry config services
	$(BIN)/vulture
	$(BIN)/yamllint --strict .
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck .ci/run docker/redis/start.sh docker/swarm/deploy.sh
	@if docker compose version >/dev/null 2>&1; then for files in $(COMPOSE_SETS); do (set -x; COMPOSE_FILE=$$files docker compose config --quiet); done; fi

# pytest-timeout ends a test from within; what hangs beyond that (the longest may take 300 s) shows where, and ends.
UNSTUCK := -o faulthandler_timeout=330 -o faulthandler_exit_on_timeout=true
.PHONY: test-unit
test-unit: $(INSTALLED)
	$(BIN)/pytest --numprocesses 2 $(UNSTUCK) tests/unit tests/architecture

# Real processes with deadlines, on a machine that may be busy: a failed test is tried once more, and shown as RERUN.
.PHONY: test-integration
test-integration: $(INSTALLED)
	$(if $(filter local,$(MODE)),PENSTOCK_TEST_SERVERS=embedded) $(BIN)/pytest --numprocesses 3 $(UNSTUCK) --reruns 1 -r fER tests/integration

.PHONY: test-compose
test-compose: $(INSTALLED)
	$(LOCAL) trial --mode compose $(BIN)/pytest tests/e2e

.PHONY: test-local
test-local: $(INSTALLED)
	$(LOCAL) trial --mode local $(BIN)/pytest tests/e2e -m 'not compose'

# Recovery takes as long as a lease, so the lease is short: a cell then takes seconds.
CHAOS_SETTINGS := CELERY_LEASE_TTL_S=4 CELERY_SWEEP_INTERVAL_S=1 CELERY_REHINT_AFTER_S=2 CELERY_CONCURRENCY=600 \
  CELERY_SHUTDOWN_GRACE_S=2 CELERY_RETRY_BACKOFF_S=0.5 CELERY_MAX_ATTEMPTS=8 ANTHROPIC_TIMEOUT_S=6 \
  ANTHROPIC_BREAKER_PAUSE_S=2
# A deadline that was missed on a busy machine is tried once more, and shown as RERUN; a broken promise is not.
CHAOS_RERUNS := --reruns 1 -r fER --rerun-except 'BROKEN: (accepted|2xx|finished|duplicate|stream|unexpected|repeated)'
CHAOS = $(BIN)/python -m tests.chaos.tree .run/tree && \
  $(LOCAL) trial --name chaos-$(1) --mode $(1) --tree .run/tree $(CHAOS_SETTINGS:%=--set %) $(2) \
  $(BIN)/pytest $(or $(CELLS),tests/chaos) --ignore tests/chaos/test_mutants.py --durations 8
# Its cells mostly wait, so two stacks share them; the full form, which measures, has the machine to itself.
CHAOS_STACKS := 2
CHAOS_SHARED = --numprocesses $(CHAOS_STACKS) --dist load --maxschedchunk 1 --max-worker-restart 0 --verbose
.PHONY: test-chaos-compose test-chaos-local
test-chaos-compose test-chaos-local: test-chaos-%: $(INSTALLED)
	$(call CHAOS,$*,--stacks $(CHAOS_STACKS)) $(CHAOS_SHARED) $(CHAOS_RERUNS)

.PHONY: test-mutants
test-mutants: $(INSTALLED) ## Show that the chaos suite notices when a safeguard is off
	$(BIN)/pytest tests/chaos/test_mutants.py

# CELLS=tests/chaos/test_storm.py runs a part, and the page keeps the rest if nothing else has changed.
.PHONY: chaos
chaos: $(INSTALLED) ## Hurt a stack of its own in every known way, about 45 minutes, and write docs/reliability.md
	@export PENSTOCK_CHAOS=full; status=0; $(call CHAOS,$(MODE)) || status=$$?; $(BIN)/python -m tests.chaos.report; exit $$status

# ROUNDS=1 is quick and says less. Peers get environments of their own in .run/bench, made when they are first measured.
# With bytecode that is compiled once, as it is in the image: else each process would do so, and keep the memory for that.
.PHONY: bench
bench: $(INSTALLED) ## Measure everything, under two hours, and write docs/performance.md; NAME=drain for one thing
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m tests.bench $(NAME) $(if $(ROUNDS),--rounds $(ROUNDS))

.PHONY: smoke
smoke: $(INSTALLED) ## Check each part of the running stack, one line each
	@$(BIN)/python -m tests.smoke

.PHONY: fmt
fmt: $(INSTALLED) ## Format the code and mend what ruff can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# --- packages -----------------------------------------------------------------------------------

$(INSTALLED): requirements/uv.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Penstock needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'Python has no venv module: install it (Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Installing packages into $(VENV) …'
	@$(PYTHON) -m venv $(VENV)/uv
	@$(VENV)/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	@[ -x $(BIN)/python ] || $(VENV)/uv/bin/uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	@$(VENV)/uv/bin/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@touch $@

.PHONY: lock
lock: $(INSTALLED) ## Pin the newest packages that pyproject.toml allows, with hashes
	$(LOCK) requirements/uv.in --output-file requirements/uv.txt
	$(LOCK) pyproject.toml --output-file requirements/runtime.txt
	$(LOCK) pyproject.toml --group dev --constraints requirements/runtime.txt --output-file requirements/dev.txt
	$(foreach peer,$(PEERS),$(LOCK) requirements/bench-$(peer).in --output-file requirements/bench-$(peer).txt &&) :
