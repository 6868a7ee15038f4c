# make demo, make test: each installs what it needs into $(VENV) first.
PYTHON ?= python3
VENV ?= .venv
PIP ?= $(VENV)/bin/python -m pip --disable-pip-version-check
OUT ?= demo
ARGS ?=

.PHONY: demo test lint benchmark

demo: install-demo
	$(VENV)/bin/python -m models.digits.data -o $(OUT)
	$(VENV)/bin/onnxlr optimize models/digits/digits.onnx -o $(OUT)/smaller.onnx --target-macs 0.15 \
	    --calibration $(OUT)/calibration.npz --inputs $(OUT)/test.npz --labels $(OUT)/test_labels.npy --report $(OUT)/report.json

test: install-test
	$(VENV)/bin/python -m pytest $(ARGS)

lint: install-lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

benchmark: install-demo
	$(VENV)/bin/python -m benchmarks

install-%: $(VENV)/bin/python
	$(PIP) install -q -e '.[$*]'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
