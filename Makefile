# Two commands for everybody, the rest for those who change the code.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

ifdef UV
  MAKE_VENV = uv venv --quiet --python $(PYTHON) $(VENV)
  PREPARE = true
  INSTALL = uv pip install --quiet --python $(BIN)/python
else
  MAKE_VENV = $(PYTHON) -m venv $(VENV)
  PREPARE = $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
  INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
endif

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

demo: $(VENV)/.run ## installs on first use, starts everything, runs the main job once, shows what happened
	@$(BIN)/mcp-agents demo $(ARGS)

test: $(VENV)/.dev ## installs what the tests need and runs them all
	@$(BIN)/python -m pytest $(ARGS)

test-conformance: $(VENV)/.dev ## the official conformance suite and Inspector against the real server (npm packages into .node)
	@$(BIN)/python -m tests.conformance.run $(ARGS)

soak: $(VENV)/.dev ## kills processes of a small cluster at random a thousand times and looks at what is left
	@$(BIN)/python -m tests.soak.run $(ARGS)

check: $(VENV)/.dev ## format, lint, types and floors
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy mcp_agents tools/mcp_agents_tools auth/mcp_agents_auth discovery/mcp_agents_discovery
	@$(BIN)/lint-imports

bench: $(VENV)/.run ## runs per second and milliseconds per run, beside a bare echo and a bare model loop
	@$(BIN)/mcp-agents bench execute $(ARGS)

trials: $(VENV)/.dev ## budgets under kills, ten thousand runs with faults, ten times too much work: the full size
	@$(BIN)/python -m tests.trials.run $(ARGS)

lock: ## rewrites the lock files from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate -p 3.11 pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate -p 3.11 pyproject.toml --group dev -o requirements-dev.lock

clean: ## removes the virtual environment and caches
	rm -rf $(VENV) .node .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# What is installed is exactly what the lock files name, hashes checked; the project itself is editable.
$(VENV)/.run: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(MAKE_VENV)
	@$(PREPARE)
	@echo "Installing into $(VENV), once …"
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python || $(MAKE_VENV)
	@$(PREPARE)
	@echo "Installing into $(VENV), once …"
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@$(INSTALL) --no-deps --editable .
	@touch $(VENV)/.run $@

.PHONY: help demo test test-conformance soak trials check bench lock clean
