# make demo, make test: each installs what it needs into $(VENV) first; make test-train and
# make test-interoperability into $(VENV)/train, so that everything else is seen to work without torch.
PYTHON ?= python3
VENV ?= .venv
PIP ?= $(VENV)/bin/python -m pip --disable-pip-version-check
TORCH ?= torch==2.13.0
OUT ?= demo
ARGS ?=

.PHONY: demo docs test test-interoperability test-train lint benchmark

demo: install-demo
	$(VENV)/bin/python -m models.digits.data -o $(OUT)
	$(VENV)/bin/onnxlr optimize models/digits/digits.onnx -o $(OUT)/smaller.onnx --target-macs 0.15 \
	    --calibration $(OUT)/calibration.npz --inputs $(OUT)/test.npz --labels $(OUT)/test_labels.npy --report $(OUT)/report.json

test: install-test
	$(VENV)/bin/python -m pytest $(ARGS)

test-train:
	$(MAKE) VENV=$(VENV)/train install-torch install-test install-train
	$(VENV)/train/bin/python -m pytest tests/training $(ARGS)

test-interoperability:
	$(MAKE) VENV=$(VENV)/train install-torch install-test install-interoperability
	$(VENV)/train/bin/python -m pytest tests/interoperability/with_torch $(ARGS)

docs: install-docs
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo wrote build/docs/index.html

lint: install-lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

benchmark: install-demo
	$(VENV)/bin/python -m benchmarks

install-torch: $(VENV)/bin/python
	$(PIP) install -q $(TORCH)

install-%: $(VENV)/bin/python
	$(PIP) install -q -e '.[$*]'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
