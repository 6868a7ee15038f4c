# make demo, make test: each installs what it needs into $(VENV) first; make test-train and
# make test-interoperability into $(VENV)/train, so that everything else is seen to work without torch;
# make test-lowest the oldest releases that pyproject.toml admits into $(VENV)/lowest; make dist the wheel
# and what it needs, and no tools, into $(VENV)/runtime, which is what make audit looks at.
PYTHON ?= python3
VENV ?= .venv
PIP ?= $(VENV)/bin/python -m pip --disable-pip-version-check
TORCH ?= torch==2.13.0
UV ?= uv==0.13.9
OUT ?= demo
ARGS ?=

# archives have the date of the last commit, or that of 1980 where there is no repository
DATED = SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800)

.PHONY: demo docs test test-interoperability test-lowest test-train lint benchmark \
    release committed audit dist runtime

demo: install-demo
	$(VENV)/bin/python -m models.digits.data -o $(OUT)
	$(VENV)/bin/onnxlr optimize models/digits/digits.onnx -o $(OUT)/smaller.onnx --target-macs 0.15 \
	    --calibration $(OUT)/calibration.npz --inputs $(OUT)/test.npz --labels $(OUT)/test_labels.npy --report $(OUT)/report.json

test: install-test
	$(VENV)/bin/python -m pytest $(ARGS)

test-lowest:
	$(MAKE) VENV=$(VENV)/lowest install-lowest
	$(VENV)/lowest/bin/python -m pytest $(ARGS)

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

release: committed audit dist

committed:
	@test -z "$$(git status --short)" || { git status --short; echo "commit this before a release"; exit 1; }

audit: runtime
	$(PIP) --python $(VENV)/runtime freeze --exclude onnxlr > $(VENV)/runtime/requirements.txt
	$(VENV)/bin/pip-audit --strict --disable-pip --no-deps -r $(VENV)/runtime/requirements.txt

dist: runtime
	$(DATED) $(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --short-PURLs \
	    --output-reproducible -o dist/onnxlr.cdx.json $(VENV)/runtime
	cd dist && sha256sum onnxlr* > SHA256SUMS
	$(VENV)/bin/python -m pytest -q --noconftest tests/test_release.py

runtime: install-release
	rm -rf dist $(VENV)/runtime
	$(DATED) $(VENV)/bin/python -m build --no-isolation
	$(PYTHON) -m venv --without-pip $(VENV)/runtime
	$(PIP) --python $(VENV)/runtime install -q dist/*.whl

install-lowest: $(VENV)/bin/python
	$(PIP) install -q $(UV)
	$(VENV)/bin/uv pip install -qU --system-certs --python $(VENV) --resolution lowest-direct -e '.[gpu,test]'

install-torch: $(VENV)/bin/python
	$(PIP) install -q $(TORCH)

install-%: $(VENV)/bin/python
	$(PIP) install -q -e '.[$*]'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
