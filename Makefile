# Every target sets up what it needs; `make setup` does nothing when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A CPU build of this version that is there already stays.
TORCH := torch==2.13.0

# Flower reports usage unless it is told not to.
export FLWR_TELEMETRY_ENABLED := 0

.PHONY: certificates deploy-local setup demo test check coverage fuzz soak hostile-node test-containers test-flower test-gpu lint types docs bench data clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt deploy/environment.py deploy/startup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 …"; exit 1; }
	@test -e $(BIN)/python || rm -f $(BIN)/python*
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { echo "Python's venv and pip are needed (on Debian and Ubuntu: the package python3-venv)."; exit 1; }
	@echo "Installing into $(VENV); what is there already stays."
	$(PIP) --no-deps --require-hashes -r constraints.txt
	$(PIP) $(TORCH)
	$(PIP) --no-deps --editable .
	@$(BIN)/python -m deploy.environment
	@touch $@

demo: setup
	@$(BIN)/python -m experiments demo

# Two files at a time (JOBS=…), in order: the long ones come early. One thread a process: the tests start many processes, and
# threads that wait for each other take longer.
JOBS ?= 2
test: setup
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

FAST := tests/attacks tests/data tests/metrics tests/models tests/protocol tests/settings tests/strategies
# Before a commit: lint, types, and the tests that start no federation.
check: lint types
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(FAST)

# The lines that those tests run, by file. What runs compiled, in an actor or in a node's process is not counted.
coverage: setup
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov --cov-report=term:skip-covered \
		$(or $(TESTS),$(FAST))

# The tests that a release of Flower can break, on another one than the pinned, in an environment of its own:
# make test-flower FLOWER=1.42.0
FLOWER ?= 1.42.0
FLOWER_VENV := .venv-flower-$(FLOWER)
# What numbers depend on stays as it is pinned; what Flower pulls in is that release's own affair.
SAME := ray|numpy|numba|scipy|scikit-learn|safetensors
FLOWER_TESTS := tests/protocol tests/strategies/test_flower_strategy.py tests/strategies/test_flower_rules.py \
	tests/attacks/test_flower_mod.py tests/attacks/test_poisoning_mod.py tests/server/test_same_results.py \
	tests/server/test_stopped.py tests/end_to_end/test_flwr_run.py tests/end_to_end/test_quickstart.py \
	tests/deployment/test_resident.py tests/deployment/test_federation.py
test-flower: $(FLOWER_VENV)/.installed
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(FLOWER_VENV)/bin/python -m pytest $(FLOWER_TESTS)

# Without the project's own dependencies, which pin Flower.
$(FLOWER_VENV)/.installed: constraints.txt
	@test -e $(FLOWER_VENV)/bin/python || $(PYTHON) -m venv $(FLOWER_VENV)
	$(FLOWER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) "flwr[simulation]==$(FLOWER)" \
		$$(grep -oE '^($(SAME))==[^ ;]+' constraints.txt) matplotlib plotly tensorboard pyarrow pytest hypothesis
	$(FLOWER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(FLOWER_VENV)/bin/python -m deploy.environment
	@touch $@

# The hostile replies of the tests, 50 times as many (TIMES=…).
fuzz: setup
	ROBUST_FEDREC_FUZZ=$(or $(TIMES),50) $(BIN)/python -m pytest tests/protocol

# 2,000 rounds on Ray in which nodes fail and die at random: fails where memory, open files or temporary files grow.
soak: setup
	$(BIN)/python -m benchmarks.load --nodes 50 --together 25 --rounds 2000 --failing 0.02 --dying 0.0004 --every 20 --steady

# A federation of processes with a registered node that lies in every one of 200 rounds.
hostile-node: setup
	ROBUST_FEDREC_HOSTILE_ROUNDS=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/deployment/test_hostile_node.py

# docker-compose.yml on a container engine, Docker or podman's socket (DOCKER_HOST); IMAGE=… takes one that is built.
test-containers: setup
	ROBUST_FEDREC_CONTAINERS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -x -rs tests/deployment/test_compose.py

# What runs on a GPU, on a real one where torch finds it, else on the emulated one.
test-gpu: setup
	PYTHONPATH=.:tests/gpu OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p emulated_device tests/gpu/on_device.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# The documents as a site, site/index.html, in an environment of its own.
DOCS_VENV := .venv-docs
docs: $(DOCS_VENV)/.installed
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(DOCS_VENV)/bin:$$PATH" $(DOCS_VENV)/bin/python -m mkdocs build

$(DOCS_VENV)/.installed: docs/site/requirements.txt
	@test -e $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes -r docs/site/requirements.txt
	@touch $@

bench: setup
	$(BIN)/python -m benchmarks

data: setup
	@$(BIN)/python -m data $(DATASET)

# make certificates HOSTS="fl.example.org 192.0.2.7" NODES=4
NODES ?= 3
certificates: setup
	@$(BIN)/python -m deploy.certificates --nodes $(NODES) $(foreach host,$(HOSTS),--host $(host))

# make deploy-local RUN="dataset=ml-1m num-server-rounds=20": a secure federation of processes here, for one run
deploy-local: setup
	@$(BIN)/python -m deploy.local --nodes $(NODES) $(RUN)

clean:
	rm -rf $(VENV) $(DOCS_VENV) site .venv-flower-* .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
