# make demo   the main job, with no server and no account: train, lose the machine, restore, finish, compare
# make test   everything that is checked: style, types, imports, tests (real MinIO and Mosquitto where they can be had)
# make faults every campaign of README's "What was tried", whole (hours; cut, it goes on with the kill points); make test has a part
# make fuzz   the parsers under a fuzzer that sees which branches an input reaches; FOR=300 seconds
# make bench  the S3 store's transfers beside other tools'; ROUNDS=1 SIZE=256MiB for a short look
# All do all of their set-up themselves.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PY := .venv/bin/python
ROUNDS ?= 5
SIZE ?= 1GiB
LARGE ?= 4GiB
FOR ?= 300

.PHONY: demo test faults fuzz bench quick lint types imports setup minio packages constraints clean

demo: setup
	$(PY) -m trainer.demo

test: setup minio packages lint types imports
	$(PY) -m pytest

faults: setup minio packages
	$(PY) -m tests.faults.kill
	SYNCD_TEST_ALL_FAULTS=1 SYNCD_TEST_LARGE=64GiB SYNCD_TEST_MODEL=20000 $(PY) -m pytest \
	  tests/faults tests/model tests/protocol/test_kill_points.py tests/cli/test_chaos.py

fuzz: setup
	@$$(command -v uv || echo $(PY) -m uv) pip install --quiet --python $(PY) -c constraints.txt -e '.[fuzz]'
	$(PY) -m tests.faults.fuzz_atheris -max_total_time=$(FOR) -print_final_stats=1 -artifact_prefix=.fuzz- .fuzz

bench: setup minio
	@$$(command -v uv || echo python3 -m uv) pip install --quiet --python $(PY) -c constraints.txt -e '.[bench]'
	$(PY) -m tests.bench.transfers --rounds $(ROUNDS) --size $(SIZE)
	$(PY) -m tests.bench.daemon --size $(LARGE)

quick: setup  ## the tests that take under a second each
	$(PY) -m pytest -m "not slow"

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup
	.venv/bin/mypy

imports: setup
	.venv/bin/lint-imports

setup: .venv/ready

# torch and its company take seconds by uv where pip takes minutes
.venv/ready: pyproject.toml constraints.txt
	@if [ ! -x $(PY) ]; then \
	  command -v uv >/dev/null || python3 -m pip install --quiet --user uv 2>/dev/null || python3 -m pip install --quiet uv || \
	    { echo "make: uv is needed: python3 -m pip install uv"; exit 1; }; \
	  $$(command -v uv || echo python3 -m uv) venv --quiet --python ">=3.11" .venv; \
	fi
	@echo "installing what constraints.txt pins into .venv …"
	@$$(command -v uv || echo python3 -m uv) pip install --quiet --python $(PY) -c constraints.txt -e '.[all]'
	@touch $@

minio:
	@tests/tools/get-minio

# a broker, a checker, a third shell, other clocks, a killer and a library of faults, by apt where they are absent and we are root
packages:
	@for name in mosquitto shellcheck busybox faketime strace; do tests/tools/get-package $$name; done
	@tests/tools/get-package fiu-utils fiu-run

constraints:  ## renew the pins
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-annotate --no-header \
	  --no-emit-index-url pyproject.toml -o constraints.txt

clean:
	rm -rf .venv .demo build dist .pytest_cache .mypy_cache .ruff_cache
