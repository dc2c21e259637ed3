# `make demo` and `make test` do all the set-up that they need. Without make, README gives the same as plain lines.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test test-triton test-ray lint check format bench fuzz load soak jetson-engine space clean

demo: $(VENV)/run.stamp
	$(BIN)/python app.py $(ARGS)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint
	$(BIN)/python -m pytest -q -m "not slow" tests/unit tests/contract

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev.stamp
	$(BIN)/python -m export benchmark $(ARGS)

# The figures of docs/reliability.md; ARGS="--write" puts them there, ARGS="--count 1000" takes fewer.
fuzz load soak: $(VENV)/dev.stamp
	$(BIN)/python -m tests.security.$@ $(ARGS)

# A real Triton in an environment of its own (about 500 MB), which is kept for the next time.
test-triton: $(VENV)/dev.stamp
	SGMSNET_TRITON_VENV=$${SGMSNET_TRITON_VENV:-.venv-triton} $(BIN)/python -m pytest tests/triton $(ARGS)

# An archive on a simulated Ray cluster; Ray (about 900 MB) stays in the environment.
test-ray: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --requirement requirements-ray.txt
	$(BIN)/python -m pytest tests/unit/test_archive_cluster.py $(ARGS)

# After deploy/jetson/install.sh: TensorRT is JetPack's, and nothing is installed here. What was built is verified:
# with IMAGES=folder on those X-rays, of which 100 give a verdict, else on the few of the stored reference.
MODEL ?= cxr
BUILT_PRECISION = $(or $(filter --precision --precision=% fp16 fp32,$(ARGS)),--precision fp16)
jetson-engine:
	$(if $(filter --model --model=%,$(ARGS)),$(error name the model as MODEL=FILE, so that it is verified too))
	$(BIN)/python -m export tensorrt --model $(MODEL) $(ARGS)
	$(BIN)/python -m export verify --model $(MODEL) --engine tensorrt $(BUILT_PRECISION) $(if $(IMAGES),--images $(IMAGES))

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/dev.stamp: requirements-dev.txt requirements-train.txt requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@ $(VENV)/run.stamp

# A folder to push to a Hugging Face Space; ARGS names another one, as a clone of the Space.
space:
	$(PYTHON) deploy/space/fill.py $(or $(ARGS),build/space)

clean:
	rm -rf $(VENV) engines/built build
