# Everything that people and CI run. `make help` lists it.

PYTHON ?= python3
CACHE := $(CURDIR)/.cache
UV := $(shell command -v uv || echo $(CACHE)/uv/bin/uv)
RUN := $(UV) run --no-sync
# For two cores. One worker waits for the cluster and one for the API server; the third one computes
# meanwhile. Many more make leases and elections end for want of a processor.
TEST_WORKERS ?= 3
export PATH := $(CACHE)/uv/bin:$(PATH)
# A replica is a process of a second's life in many tests. Without bytecode it compiles its sources
# again each time, which takes as long as all the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo demo-down test test-long coverage check check-generated format lock-check e2e bench bench-etcd generate cluster cluster-down site

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(UV) ## everything Python needs, from uv.lock
	@$(UV) sync --locked --quiet --compile-bytecode

$(CACHE)/uv/bin/uv:
	@echo "installing uv into .cache"
	@$(PYTHON) -m venv $(CACHE)/uv
	@$(CACHE)/uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

demo: setup ## the whole line once, on a local cluster or the one of CONTEXT= (docs/try_it.md)
	@$(RUN) python -m dev.demo up

demo-down: setup ## removes what the demo made
	@$(RUN) python -m dev.demo down

test: setup check check-generated ## checks and all tests; without root, all but those on a cluster
	@if [ "$$(id -u)" = 0 ]; then $(RUN) python -m dev.cluster build; fi
	@$(RUN) python -m dev.object_store build
	@$(RUN) python -m dev.prometheus build
	@$(RUN) pytest -q -n $(TEST_WORKERS) --durations=40

test-long: setup ## the randomised suites at length: 1,000 seeds, more examples, flips; skew of versions
	@$(RUN) python -m dev.object_store build
	@SIMULATION_SEEDS=1000 FUZZ_EXAMPLES=500 SNAPSHOT_EXAMPLES=60 POWER_LOSS_STATES=100 DAMAGE_FLIPS=1000 \
	  PLAN_EXAMPLES=5000 \
	  $(RUN) pytest -q -n $(TEST_WORKERS) --timeout 1800 --durations=15 tests/simulation tests/fuzz \
	  tests/unit/test_plan_world.py \
	  tests/conformance/test_log_machine.py tests/conformance/test_snapshot_machine.py \
	  tests/conformance/test_import_export.py tests/conformance/test_power_loss.py \
	  tests/conformance/test_damage.py
	@$(RUN) pytest -q -m long tests/scenarios

coverage: setup ## lines and branches that the unit and conformance tests run, by package
	@$(RUN) python -m dev.object_store build
	@$(RUN) python -m dev.prometheus build
	@$(RUN) coverage erase
	@failed=0; $(RUN) coverage run -m pytest -q -n $(TEST_WORKERS) tests/unit tests/conformance \
	    || failed=1; \
	  $(RUN) coverage combine --quiet && $(RUN) python -m dev.coverage_by_package && exit $$failed

# Clippy checks in Cargo's dev profile, below the same targets as the release builds of the modules.
# Maturin configures pyo3 by its environment, so in one profile each would undo the other's build.
check: setup ## lint, format, types, layers, prose; builds nothing but the Rust modules
	@$(RUN) ruff check .
	@$(RUN) ruff format --quiet --check .
	@$(RUN) mypy client/partition_client client/partition_kubectl operator/partition_operator replica/partition_replica \
	  snapshots/partition_snapshots raft/partition_raft tls/partition_tls proto/partition_proto/connection common/partition_common
	@PYTHONPATH=client:common:operator:proto:raft:replica:snapshots:tls $(RUN) lint-imports --no-cache
	@cargo fmt --manifest-path raft/Cargo.toml --check
	@cargo fmt --manifest-path tls/Cargo.toml --check
	@PYO3_PYTHON=$(CURDIR)/.venv/bin/python cargo clippy --manifest-path raft/Cargo.toml --quiet --locked --all-targets -- -D warnings
	@PYO3_PYTHON=$(CURDIR)/.venv/bin/python cargo clippy --manifest-path tls/Cargo.toml --quiet --locked --all-targets -- -D warnings
	@$(RUN) python -m dev.prose

check-generated: setup ## generated code, manifests and reference pages are current; builds Helm once
	@$(RUN) python -m dev.generate --check

format: setup ## formats Python and Rust, mends what the linter can
	@$(RUN) ruff check --quiet --fix --exit-zero .
	@$(RUN) ruff format --quiet .
	@cargo fmt --manifest-path raft/Cargo.toml
	@cargo fmt --manifest-path tls/Cargo.toml

lock-check: $(UV) ## whether uv.lock agrees with every pyproject.toml
	@$(UV) lock --check --quiet

e2e: test-long ## test-long, then the tests on a cluster at length: idle minutes, kills, large data
	@SATURATION_SECONDS=1800 $(RUN) pytest -q -m long tests/scenarios/test_saturation.py
	@IDLE_SECONDS=600 LEADER_KILLS=20 BACKFILL_ENTRIES=200000 BACKFILL_BYTES=1073741824 \
	  $(RUN) pytest -q -m "" --durations=15 tests/e2e

bench: setup ## what docs/performance.md quotes
	@$(RUN) python -m tests.benchmarks.run

bench-etcd: setup ## beside etcd, on an idle machine; builds etcd once (tests/benchmarks/etcd)
	@$(RUN) python -m tests.benchmarks.etcd.compare $(BENCH_ARGUMENTS)

generate: setup ## code of the services, manifests, the operator's types, reference pages
	@$(RUN) python -m dev.generate

site: setup ## the project and its dependencies as one folder, dist/site, for the Dockerfile
	@$(RUN) python -c "from pathlib import Path; from dev.cluster.images import install_site; \
	  install_site(Path('dist/site'))"

cluster: setup ## starts the local cluster, or loads the current image into it
	@$(RUN) python -m dev.cluster up

cluster-down: setup ## ends the local cluster and removes what it left
	@$(RUN) python -m dev.cluster down
