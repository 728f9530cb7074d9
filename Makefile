# Everything a developer does, by name; `make` alone lists it. Needs Python 3.11 or newer, make, and pip's network.
#
#   make up PYTHON=python3.13    another interpreter; the first of python3, python3.14, ..., python3.11 that fits
#   make test UV=                without uv, where it is installed; pip does the same, in a while
#
# It runs on the make that macOS brings (3.81): one shell for each line, no newer features.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
UV ?= $(shell command -v uv 2>/dev/null)
ARGS ?=
# In CI a test that is skipped fails.
NO_SKIPS := $(if $(CI),-p tests.no_skips)

# Two stamps say what is installed: what runs, and what tests need too. Only a change of the locks installs again.
RUN := $(VENV)/.ready-to-run
DEVELOP := $(VENV)/.ready-to-develop

# Scripts in an environment hold its path, and it needs its interpreter: moved, or orphaned, it is made anew.
STALE := $(shell test -x $(BIN)/python && test "$$(cat $(VENV)/.place 2>/dev/null)" = "$(CURDIR)" || echo stale)

ifeq ($(UV),)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
else
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
# pip does so unasked. A process that compiles what it imports starts more slowly, and keeps 15 MB of it.
COMPILED := --compile-bytecode
endif

COMPILE = $(if $(UV),$(UV),$(BIN)/uv) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url $(if $(UPGRADE),--upgrade)

# Docker's Compose, or another where there is none. It reads .env.docker for itself as well: versions, ports, names.
COMPOSE = $(or $(shell for tool in "docker compose" "podman compose" docker-compose podman-compose; do \
  $$tool version >/dev/null 2>&1 && echo $$tool && break; done),docker compose) \
  $(shell test ! -f .env.docker || echo --env-file .env.docker)

.DEFAULT_GOAL := help
.PHONY: help up demo dev build test test-all unit room mutate simulate simulate-faults fuzz lint format types bench soak bench-failover bench-ledger bench-sizing bench-rates bench-steps chaos test-claude-code test-scale test-upgrade test-install test-recipes release lock prices docs screenshots clean stale
.PHONY: test-image docker-build docker-run docker-stop docker-logs docker-clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

up: $(RUN) ## start everything: Postgres, Valkey, a worker, the proxy
	@exec $(BIN)/ccproxy up $(ARGS)

demo: $(RUN) ## see it at work without any key: fake providers, generated traffic
	@exec $(BIN)/ccproxy demo $(ARGS)

dev: $(DEVELOP) ## the same, started again whenever a file in service/ or workers/ changes
	@exec $(BIN)/watchfiles --sigint-timeout 20 '$(BIN)/ccproxy up' service workers

build: $(RUN) ## wheel and source archive, into dist/
	@rm -rf dist
	$(BIN)/hatchling build -d dist

release: $(DEVELOP) ## check, tag and build a release into dist/: make release VERSION=1.2.3 (URL= for the Homebrew formula)
	@test -n "$(VERSION)" || { echo "Name the version: make release VERSION=1.2.3" >&2; exit 1; }
	@$(BIN)/python -m tests.release.release $(VERSION) $(if $(URL),--url $(URL))

# Tests of real processes mostly wait, so that three at once go well on two cores; JOBS=0 runs all of them in turn.
test: $(DEVELOP) ## every check: format, lint, types, import contract, tests (ARGS are pytest's, JOBS=3 at once)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(or $(JOBS),3) --dist loadfile $(NO_SKIPS) $(ARGS)

test-all: $(DEVELOP) ## the long suites, one after the other (ARGS="chaos fuzz" for some); `make test` is not among them
	@$(BIN)/python -m tests.long_suites $(ARGS)

unit: $(DEVELOP) ## tests of the pure packages alone, without a server: under 20 seconds on two cores
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -p no:playwright \
	  $(addprefix tests/,routing ledger protocol providers) $(ARGS)

room: $(DEVELOP) ## tests of one package alone, without the other checks: make room ROOM=routing
	@test -n "$(ROOM)" && find "tests/$(ROOM)" -name 'test_*.py' 2>/dev/null | grep -q . || \
	  { echo "Name a folder of tests/ that has tests: make room ROOM=routing" >&2; exit 1; }
	$(BIN)/python -m pytest -q -n $(or $(JOBS),2) --dist loadfile tests/$(ROOM) $(ARGS)

mutate: $(DEVELOP) ## plant faults in the pure packages; their tests have to notice (ARGS="--rooms routing --count 50 --seed 2")
	@PYTHONHASHSEED=0 PYTHONPATH=. $(BIN)/python -m tests.mutation $(ARGS)

lint: $(DEVELOP) ## ruff's rules and the import contract
	$(BIN)/ruff check .
	$(BIN)/lint-imports

format: $(DEVELOP) ## put the code into ruff's format, and mend what it can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEVELOP) ## mypy, strict
	$(BIN)/mypy

bench: $(DEVELOP) ## the proxy beside nginx, LiteLLM and others: processor time, latency, memory (ARGS=--quick)
	@PYTHONPATH=. $(BIN)/python -m bench $(ARGS)

soak: $(DEVELOP) ## 300,000 requests or 30 minutes: does memory grow, is a descriptor leaked? (ARGS="--minutes 5")
	@PYTHONPATH=. $(BIN)/python -m bench.soak $(ARGS)

chaos: $(DEVELOP) ## kill, freeze and restart everything under load, then audit (SEED=n ACTIONS=200 SECONDS=150)
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(ACTIONS),--actions $(ACTIONS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

simulate: $(DEVELOP) ## simulated fleets under every fault, one for each of SEEDS (300), from FIRST (1) on, on all cores
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),300) --first $(or $(FIRST),1)

simulate-faults: $(DEVELOP) ## plant each fault that the simulation has to notice, and count the seeds until it does
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation --fault all --seeds $(or $(SEEDS),1000)

fuzz: $(DEVELOP) ## structured fuzz: decided, forwarded and counted are compared (SEED=n REQUESTS=20000, ONLY=n for one)
	$(BIN)/python -m tests.attacks.fuzz $(if $(SEED),--seed $(SEED)) $(if $(REQUESTS),--requests $(REQUESTS)) \
	  $(if $(ONLY),--only $(ONLY))

bench-ledger: $(DEVELOP) ## what the ledger folds, lags, catches up and proves in a second; EVENTS= for another size, ARGS="fold verify" for some
	@PYTHONPATH=. $(BIN)/python -m bench.ledger $(ARGS)

bench-sizing: $(DEVELOP) ## what docs/sizing.md says: speed and memory of the parts, growth; REQUESTS= for more
	@PYTHONPATH=. $(BIN)/python -m bench.sizing

bench-failover: $(DEVELOP) ## how soon a dead route is left, and how exactly a quota is used; ROUNDS= for more
	@PYTHONPATH=. $(BIN)/python -m bench.failover

bench-rates: $(DEVELOP) ## what a request costs at 1 to 500 requests/s and at rest, by process (ARGS="--checkout ../other" beside it)
	@PYTHONPATH=. $(BIN)/python -m bench.rates $(ARGS)

bench-steps: $(DEVELOP) ## Python calls and bytecodes of one request, beside those written down (ARGS=--write)
	@PYTHONPATH=. $(BIN)/python -m bench.steps $(ARGS)

test-claude-code: $(DEVELOP) ## Claude Code itself against the proxy; installs it from npm first (needs Node and npm)
	$(BIN)/python -m pytest tests/claude_code $(NO_SKIPS) $(ARGS)

test-scale: $(DEVELOP) ## proxies behind HAProxy and Redis 7, restarted in turn and killed under load (ROUNDS=5 CLIENTS=20)
	SCALE_ROUNDS=$(or $(ROUNDS),5) SCALE_CLIENTS=$(or $(CLIENTS),20) $(BIN)/python -m pytest tests/scale $(NO_SKIPS) $(ARGS)

test-upgrade: $(DEVELOP) ## an earlier version and this one, as checkouts and as wheels, under traffic, in both orders (needs the history)
	$(BIN)/python -m pytest tests/upgrade $(ARGS)

test-install: $(DEVELOP) ## the wheel by uvx, uv tool and pipx, on Python 3.11 to 3.14 as far as they can be had; the workflows (needs npm)
	$(BIN)/python -m pytest tests/install $(NO_SKIPS) $(ARGS)

test-recipes: $(DEVELOP) ## docs/recipes.md with the real clients, from npm and PyPI, and a route that fails (needs npm)
	$(BIN)/python -m pytest tests/recipes $(NO_SKIPS) $(ARGS)

test-image: $(DEVELOP) ## what the Dockerfile installs and starts, in a plain folder, without Docker
	$(BIN)/python -m tests.deploy.image

# The version of a checkout as the build derives it elsewhere; the history is not in the image's context.
docker-build docker-run: export CCPROXY_VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --always --abbrev=9 2>/dev/null | \
  sed -E 's/^v//; s/-[0-9]+-g/+g/; s/^[0-9a-f]{9}$$/0.0+g&/')

docker-build: ## the image of the proxy and the workers (Docker, or Podman where there is no Docker)
	$(COMPOSE) build cc-proxy

docker-run: .env.docker ## start everything in containers, and show the client key of a first start
	$(COMPOSE) up --detach
	@$(COMPOSE) logs --no-log-prefix cc-migrate

docker-stop: ## stop the containers; answers under way are finished, data stays
	$(COMPOSE) down

docker-logs: ## follow the log of the containers (ARGS="cc-proxy" for some)
	$(COMPOSE) logs --follow $(ARGS)

docker-clean: ## remove the containers, the image, and with SURE=yes their data: the ledger, too
	$(COMPOSE) down --rmi local --remove-orphans $(if $(filter yes,$(SURE)),--volumes)

lock: $(DEVELOP) ## resolve requirements*.lock again after pyproject.toml changed; UPGRADE=1 takes the newest
	@test -n "$(UV)" || $(INSTALL) uv
	$(COMPILE) --group build pyproject.toml -o requirements.lock
	$(COMPILE) --group dev --constraint requirements.lock pyproject.toml -o requirements-dev.lock

prices: $(DEVELOP) ## write the built-in price list, from the installed genai-prices and price_terms.toml
	$(BIN)/ccproxy prices update --to service/ledger/prices.toml

docs: $(DEVELOP) ## write the generated pages of docs/ and .env.example, after a setting or a command changed
	$(BIN)/python -m tests.docs.generate

screenshots: $(DEVELOP) ## write the dashboard's screenshots in docs/images, from the demo (needs Chromium)
	$(BIN)/python -m tests.docs.screenshots

clean: ## remove what these targets made; your data and logs stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find service workers tests -name __pycache__ -type d -prune -exec rm -rf {} +

.env.docker:
	@deploy/setup-docker.sh

$(VENV)/.place: $(STALE)
	@python="$(PYTHON)"; \
	for candidate in $${python:-python3 python3.14 python3.13 python3.12 python3.11}; do \
	  found="$$found$$($$candidate -c 'import sys; print("", sys.executable, "is", sys.version.split()[0])' 2>/dev/null)"; \
	  if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "Python 3.11 or newer is needed; found:$${found:- none}" >&2; \
	  echo "Install one, and name it if it is not python3: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$chosen --version) ..."; \
	if [ -n "$(UV)" ]; then "$(UV)" venv --quiet --clear --python "$$(command -v $$chosen)" $(VENV); \
	else $$chosen -m venv --clear $(VENV); fi || \
	  { echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "$(CURDIR)" > $@

$(RUN): requirements.lock pyproject.toml $(VENV)/.place
	@echo "Installing what requirements.lock names ..."
	@rm -rf $(VENV)/lib/python*/site-packages/*claude_code_proxy*  # a former name, which would bring each command twice
	@$(INSTALL) $(COMPILED) --require-hashes -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DEVELOP): requirements-dev.lock $(RUN)
	@echo "Installing what requirements-dev.lock names ..."
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

stale:
