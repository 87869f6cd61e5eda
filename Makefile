# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-gpu lint types unit clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[search,openvino,dev]'
	touch $@

DEMO := --target onnxruntime-cpu --width 0.5 --depth 2
MEDIAN := "import json; survey = json.load(open('runs/demo-survey/search.json'))['survey']; \
  print(f'{survey[\"ranges\"][0][\"median\"] * 1e3:.0f}us')"

# A budget that half of the sampled networks meet on this machine, whatever it is: a search that
# excludes nothing says their latencies, and leaves them in the cache.
demo: $(STAMP)
	$(BIN)/fbn search $(DEMO) --candidates 1 --latency-budget 1s --run runs/demo-survey
	$(BIN)/fbn deploy $(DEMO) --candidates 40 --retrain-epochs 8 --run runs/demo \
	  --latency-budget $$($(BIN)/python -c $(MEDIAN))

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not alone" --numprocesses 2 --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/pytest -m alone

# Needs an NVIDIA GPU; without one it says what is missing and fails. A test that fails ends it at
# its end only: runtimes that work are timed all the same.
test-gpu: $(STAMP)
	-$(BIN)/python -m pip install --quiet --editable '.[tensorrt]'  # where NVIDIA's index is reached
	$(BIN)/python benchmarks/gpu.py --check
	failed=0; \
	$(BIN)/pytest -m gpu -rs || failed=1; \
	$(BIN)/pytest tests/test_targets.py tests/test_profile.py -k "cuda or tensorrt" -rs || failed=1; \
	$(BIN)/python benchmarks/gpu.py || failed=1; \
	exit $$failed

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
