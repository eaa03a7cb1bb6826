# Everything from a fresh clone: needs Python >= 3.11 and make, nothing else.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null || echo .venv-uv/bin/uv)
export RAY_USAGE_STATS_ENABLED := 0
export RAY_AUTH_MODE := disabled

.PHONY: install demo test lint protos bench chaos

.venv/.installed: pyproject.toml uv.lock
	@command -v $(UV) >/dev/null 2>&1 || ( $(PYTHON) -m venv .venv-uv && .venv-uv/bin/python -m pip install --quiet uv )
	$(UV) sync --frozen --quiet --python $(PYTHON)
	@touch $@

# For all processes of a stack: where `PYTHONDONTWRITEBYTECODE` is set, each would compile it anew.
install: .venv/.installed
	@$(BIN)/python -m compileall -q wtb_ray

demo: install
	$(BIN)/wtb demo rag

test: install
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m wtb_ray.serve.config configs/dev.yaml configs/prod.yaml

# Pinned: what grpcio-tools generates needs at least the grpcio and protobuf of its own release.
protos: install
	$(UV) run --isolated --no-project --python $(PYTHON) --with 'grpcio-tools==1.80.*' \
		python -m grpc_tools.protoc -Iprotos --python_out=wtb_ray/rpc --pyi_out=wtb_ray/rpc \
		--grpc_python_out=wtb_ray/rpc protos/wtb/v1/*.proto
	sed -i -e 's/^from wtb\.v1 import/from wtb_ray.rpc import/' \
		-e 's/wtb\.v1\.\(\w*_pb2\)/wtb_ray.rpc.\1/g' wtb_ray/rpc/wtb/v1/*
	mv wtb_ray/rpc/wtb/v1/* wtb_ray/rpc/
	rm -r wtb_ray/rpc/wtb

bench: install
	$(UV) sync --frozen --quiet --all-groups --python $(PYTHON)
	$(BIN)/python -m benchmarks $(ARGS)

chaos: install
	$(BIN)/python -m pytest tests/chaos --chaos=long -s
