# `make serve` and `make test` work on a bare machine with Python 3.11 or newer: they call `make setup`.
SHELL := /bin/bash
BIN := .venv/bin
# Three files at once, in order, so that the long ones are not the last. OpenMP's threads must not spin then.
# Many tests wait for processes, so that there is work for a third.
PYTEST_ALL := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: help setup serve test test-all test-pins test-gpu test-kernels test-gpu-sanitize test-gpu-stress test-web conformance cluster verify-trtllm check format bench bench-speculation bench-gpu bench-frontend bench-budget faults abuse soak overload json-schema-suite docs lock clean

help:            ## show the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup:           ## make .venv with all dependencies and the demo model
	@scripts/setup.sh

serve: setup     ## serve on http://127.0.0.1:8000 (ARGS="--port 9000 …" for flags)
	@exec $(BIN)/python -m trtllm_openai serve $(ARGS)

test: setup      ## run the tests (ARGS="-k name …" for pytest's flags)
	$(PYTEST_ALL) -m "not slow" $(ARGS)

test-all: setup  ## run the tests and those that are slow
	$(PYTEST_ALL) $(ARGS)

test-pins:       ## run the tests under the versions that tensorrt_llm 1.2.1 pins
	@VENV=.venv-pins CONSTRAINTS=constraints/tensorrt_llm-1.2.1.txt scripts/setup.sh
	$(PYTEST_ALL:$(BIN)%=.venv-pins/bin%) $(ARGS)

test-gpu: setup  ## run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest tests/gpu $(ARGS)

# Triton's compiler needs no GPU; PyTorch's builds for CPUs lack it. What tests assert is left out (-O).
test-kernels: setup ## compile the GPU kernels of the tests for an H100, on any machine
	@test -d .triton || $(BIN)/python -m pip install --quiet --no-deps --target .triton 'triton>=3.6,<3.7'
	PYTHONPATH=.triton $(BIN)/python -O -m pytest --assert=plain -W ignore -p no:schemathesis -p tests.gpu.compile_only \
	  tests/gpu/test_kernels.py tests/gpu/test_quantized.py $(ARGS)

# Each rank under its own, since a rank waits for the other within a kernel. Only our kernels are checked.
SANITIZED = --kernel-name kernel_substring=add_sum --kernel-name kernel_substring=_gather \
  --target-processes application-only --launch-timeout 0 --report-api-errors no --error-exitcode 9
EXCHANGE = $(BIN)/python -m pytest tests/gpu/test_parallel.py -k "test_exchange and not nccl" -s -o timeout=0

test-gpu-sanitize: setup ## the sum over two GPUs under compute-sanitizer's memcheck and racecheck (SANITIZER=PATH)
	for tool in memcheck racecheck; do \
	  EXCHANGE_UNDER="$(or $(SANITIZER),compute-sanitizer) --tool $$tool $(SANITIZED)" \
	  EXCHANGE_REPEATS=16 EXCHANGE_TIMEOUT=1200 $(EXCHANGE) $(ARGS) || exit; \
	done

test-gpu-stress: setup ## 100,000 sums of random sizes over two GPUs, by each protocol
	EXCHANGE_REPEATS=100000 EXCHANGE_TIMEOUT=1200 $(EXCHANGE) $(ARGS)

conformance: setup ## drive the server with other clients, and write docs/conformance.md (OPEN_WEBUI=1: that too, 7 GB)
	@$(BIN)/python -m tests.conformance.install
	$(if $(OPEN_WEBUI),@$(BIN)/python -m tests.conformance.install open_webui)
	CONFORMANCE=1 $(BIN)/python -m pytest tests/conformance tests/e2e/test_guided.py $(ARGS)

test-web: setup  ## drive the page at / with Chromium (apt-get install chromium), and axe-core from npm
	@cd tests/web/node && npm install --silent --no-package-lock
	$(BIN)/python -m pytest tests/web $(ARGS)

cluster: setup   ## runners on a Ray cluster of three nodes, all on this machine
	@$(BIN)/python -m tests.cluster.install
	PYTHONPATH=app:. .cluster/bin/python -m pytest tests/cluster -o filterwarnings=default $(ARGS)

verify-trtllm:   ## prove the engine where TensorRT-LLM is installed (ENGINE=DIR TOKENIZER=DIR)
	python3 scripts/verify_trtllm.py "$(ENGINE)" "$(TOKENIZER)" -- $(ARGS)

check: setup     ## format check, lint, strict types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup    ## format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The packages of an extra alone, apart from the server's.
.%-venv/.ready: pyproject.toml
	@python3 -m venv .$*-venv
	@.$*-venv/bin/python -m pip --disable-pip-version-check install --quiet \
	  $$(python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["$*"])')
	@touch $@

# Material's notice about MkDocs 2 is not one of a fault.
docs: .docs-venv/.ready ## build the documentation into site/; warnings are errors (ARGS="-f …" for mkdocs' flags)
	@NO_MKDOCS_2_WARNING=1 .docs-venv/bin/mkdocs build --strict $(ARGS)

# For every platform and Python. torch is left out, with what it brings: scripts/setup.sh chooses its build.
LOCK := .lock-venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-emit-index-url --custom-compile-command "make lock" --override <(echo "torch; python_version < '3'") $(ARGS)

lock: .lock-venv/.ready ## pin and hash what development and the CPU image install (ARGS=--upgrade: the newest)
	@$(LOCK) pyproject.toml --extra dev -o constraints/dev.lock.txt
	@$(LOCK) pyproject.toml --extra tracing --extra kv-events -o constraints/image.lock.txt
	@$(LOCK) --no-deps constraints/no-deps.in -o constraints/no-deps.lock.txt

bench: setup     ## tokens/s of the torch engine beside transformers
	$(BIN)/python benchmarks/engine.py $(ARGS)

bench-speculation: setup ## speculative decoding on texts that repeat (ARGS="--device cuda")
	$(BIN)/python benchmarks/speculation.py $(ARGS)

bench-gpu: setup ## a decode step against the bytes it moves (ARGS="--model DIR")
	$(BIN)/python benchmarks/gpu.py $(ARGS)

bench-frontend: setup ## what the HTTP side costs for a token and a request (ARGS="--check": against its budget)
	$(BIN)/python benchmarks/frontend.py $(ARGS)

bench-budget: setup ## the longest stop of the event loop for requests that ask for much work
	$(BIN)/python benchmarks/budget.py $(ARGS)

faults: setup    ## break it, on the whole demo model (`make test` does it on four of its layers)
	FAULTS_ON_THE_WHOLE_DEMO=1 $(BIN)/python -m pytest tests/faults $(ARGS)

abuse: setup     ## everything that one client may try, beside a probe and a stream; writes docs/security.md
	ABUSE=1 $(BIN)/python -m pytest $$($(BIN)/python -m tests.abuse.promises) tests/abuse $(ARGS)

soak: setup      ## mixed traffic for 10 minutes (SOAK_SECONDS)
	SOAK_SECONDS=$${SOAK_SECONDS:-600} $(BIN)/python -m pytest tests/faults/test_soak.py -o timeout=0

json-schema-suite: setup ## the official JSON-Schema-Test-Suite through the masks of guides (ARGS=--verbose)
	$(BIN)/python scripts/json_schema_suite.py $(ARGS)

overload: setup  ## three times the load it can take (OVERLOAD_ENGINE=torch: the demo model)
	OVERLOAD_SECONDS=$${OVERLOAD_SECONDS:-40} $(BIN)/python -m pytest tests/faults/test_overload.py

clean:           ## remove .venv and caches of tools
	rm -rf .venv .venv-pins .conformance .cluster .docs-venv .lock-venv site tests/conformance/node/node_modules tests/web/node/node_modules .mypy_cache .ruff_cache .import_linter_cache .pytest_cache build dist *.egg-info
