# The one entry: each target does all its own set-up.
#
#   make demo      the demonstration, end to end; with BACKEND=kvm in machines (needs QEMU)
#   make test      the tests, in a few minutes
#   make test-all  the slow ones too
#   make check     lint, types and import rules
#   make conformance SUITE=DIR  the official WASI programs (docs/reference/wasi.md)
#   make bench     measure, against named peers
#   make fuzz SECONDS=60  fuzz every parser, each for so long
#   make docs      renew the generated pages of docs/
#   make languages  run the examples of all languages, and write the page of them
#   make s3-server  build the S3-compatible server that tests of the drawbridge use, with Go
#   make lock      renew requirements.lock from pyproject.toml

# Empty: `tools/python.sh` chooses.
PYTHON ?=
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo test test-all check docs languages conformance bench fuzz s3-server lock clean
.DELETE_ON_ERROR:

setup: $(READY)

# The marker is written last, so an interrupted set-up is made anew.
$(READY): requirements.lock pyproject.toml
	@python="$(PYTHON)"; [ -n "$$python" ] || python=$$(tools/python.sh); \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "garrison needs Python 3.11 or later: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	"$$python" -c 'import venv, ensurepip' \
	  || { echo "this Python has no venv module: on Debian, apt-get install python3-venv" >&2; exit 1; }; \
	"$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Python 3.11 puts it there, nothing uses it, and it costs each start of Python a millisecond.
	$(BIN)/python -m pip uninstall --quiet --disable-pip-version-check --yes setuptools
	$(BIN)/python tools/launcher.py
	$(BIN)/python -m compileall -q src
	@touch $@

demo: $(READY)
	@$(BIN)/python examples/demo.py $(BACKEND)

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadgroup

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/cli_reference.py --check

docs: $(READY)
	$(BIN)/python tools/cli_reference.py

conformance: $(READY)
	@$(BIN)/python tests/conformance/wasi_testsuite.py $(SUITE)

languages: $(READY)
	LANGUAGES_PAGE=docs/reference/languages.md $(BIN)/python -m pytest -q tests/e2e/test_languages.py

bench: $(READY)
	@# What it prepares counts for as long as no source has changed.
	$(BIN)/python tools/launcher.py
	$(BIN)/python bench

# An environment of its own: the fuzzer is large, and for Linux on x86-64 alone.
# Not under `build`, which then were a package for whoever looks for one of that name here.
FUZZ := .fuzz/venv
SECONDS ?= 60

$(FUZZ)/.ready: fuzz/requirements.txt $(READY)
	$(BIN)/python -m venv --clear $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements.lock -r fuzz/requirements.txt
	@touch $@

fuzz: $(FUZZ)/.ready
	PYTHONPATH=src $(FUZZ)/bin/python fuzz --seconds $(SECONDS) $(TARGETS)

s3-server: $(READY)
	GOBIN=$(CURDIR)/$(BIN) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

lock:
	uv pip compile pyproject.toml --group dev --group guests --group bench --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.lock

clean:
	rm -rf $(VENV) $(FUZZ) build dist
