# Everything a developer does, one command each. `make help` lists them.
# Targets that are files are rebuilt only when what they are made from has changed; .venv is made by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE_SOURCES := $(wildcard broker/native/*.pyx broker/native/*.pxd broker/native/*.h)
# `make test ARGS="-k hub -x"` hands pytest these, `make run ARGS="--listen :9001"` the broker.
ARGS ?=
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(sort $(notdir $(basename $(wildcard tests/fuzz/fuzz_*.py))))

MAKEFLAGS += --no-print-directory --no-builtin-rules
.DELETE_ON_ERROR:
# The extensions compile in parallel by themselves; the order of the steps matters (packages first).
.NOTPARALLEL:
.DEFAULT_GOAL := help
export PYTHON
# What an activated environment or a user's site would mix in.
unexport PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Tests use the distribution's browser, never a downloaded one.
export CHROMIUM ?= $(firstword $(wildcard /usr/bin/chromium /usr/bin/chromium-browser) /usr/bin/chromium)

# tests/tools/native_build/sitecustomize.py makes every Python, also one that a test starts, load the core from that build.
WITH_BUILD = PYTHONPATH='$(CURDIR)/tests/tools/native_build' BROKER_NATIVE_BUILD=$(1)
# The sanitizers' run-time libraries come with gcc. The core counts its own leaks at teardown; Python never frees everything.
WITH_ASAN = $(call WITH_BUILD,asan) PYTHONMALLOC=malloc \
	BROKER_NATIVE_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so) $$($${CC:-cc} -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1

##@ Use
.PHONY: run build dist
run: build ## build everything and serve the demo page: ws-broker serve --dev
	$(BIN)/ws-broker serve --dev $(ARGS)

build: $(VENV)/.installed build/release/.built ## build the core, leave .venv/bin/ws-broker

dist: build $(VENV)/.tests ## a wheel for this machine's Python, and the source archive, in dist/
	$(BIN)/python -m build --no-isolation --outdir dist .

##@ Develop
.PHONY: check format docs-reference test test-debug test-asan test-asan-native fuzz bench loadtest newcomer
check: build $(VENV)/.loadtest ## ruff format, ruff, mypy --strict (broker, tests, loadtests), architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_project.py

format: $(VENV)/.tests ## let ruff format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs-reference: $(VENV)/.tests ## write what is made from the code: reference in docs/configuration.md, docs/metrics.md, the Grafana board
	$(BIN)/python -m tests.tools.configuration_reference
	$(BIN)/python -m tests.tools.metrics_reference
	$(BIN)/python -m tests.tools.board

test: test-packages build $(VENV)/.loadtest $(VENV)/.docs ## install what tests need and run every test
	$(BIN)/python -m pytest $(ARGS)

test-debug: test-packages build $(VENV)/.loadtest $(VENV)/.docs build/debug/.built ## the tests on a core with bounds checks and assertions, python -X dev
	$(call WITH_BUILD,debug) PYTHONDEVMODE=1 $(BIN)/python -m pytest $(ARGS)

test-asan: test-packages build $(VENV)/.loadtest $(VENV)/.docs build/asan/.built ## the tests on a core with AddressSanitizer and UBSan
	$(WITH_ASAN) $(BIN)/python -m pytest $(ARGS)

test-asan-native: build $(VENV)/.tests build/asan/.built ## only what drives the core directly: units, properties, fuzz corpus
	$(WITH_ASAN) $(BIN)/python -m pytest $(wildcard tests/unit/native tests/property tests/fuzz) $(ARGS)

fuzz: build $(VENV)/.fuzz build/fuzz/.built ## coverage-guided random input, FUZZ_SECONDS (60) for each target in tests/fuzz
	@for target in $(FUZZ_TARGETS); do \
		echo "== $$target: $(FUZZ_SECONDS) s; new inputs go to build/fuzz/corpus/$$target"; \
		$(call WITH_BUILD,fuzz) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		BROKER_NATIVE_PRELOAD="$$($(BIN)/python -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so" \
		$(BIN)/python -m tests.fuzz.$$target build/fuzz/corpus/$$target -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ $(ARGS) || exit 1; \
	done

bench: build $(VENV)/.tests ## the benchmark of this repository
	$(BIN)/python loadtests/bench.py $(ARGS)

loadtest: build $(VENV)/.loadtest ## load test with locust, 5000 sockets and a report; ARGS="--help" lists scenarios
	$(BIN)/python -m loadtests.locustfiles.run $(ARGS)

newcomer: ## walk a newcomer's path through README.md in a fresh Debian (root, debootstrap; some minutes)
	@tests/tools/newcomer.sh

##@ Document
.PHONY: docs docs-serve docs-screenshots
# Its makers' announcements are no business of this build.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.docs ## build the site of docs/ strictly, into build/site
	$(BIN)/mkdocs build --strict $(ARGS)

docs-serve: $(VENV)/.docs ## show the site while you write: http://127.0.0.1:8100/
	$(BIN)/mkdocs serve --strict --dev-addr 127.0.0.1:8100 $(ARGS)

docs-screenshots: test-packages build $(VENV)/.tests ## take the pictures of docs/images/ anew
	$(BIN)/python -m tests.tools.screenshots

##@ Keep
.PHONY: lock clean distclean help build-packages test-packages fuzz-packages
# Each requirement file is complete with those before it, and pinned to the versions of the one before it.
LOCKED = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --upgrade
lock: build-packages ## renew requirements/*.txt from pyproject.toml (newest versions, with hashes)
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCKED) pyproject.toml --group build -o requirements/build.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCKED) pyproject.toml -c requirements/build.txt -o requirements/run.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCKED) pyproject.toml --group build --group test --group check -c requirements/build.txt -o requirements/test.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCKED) --group fuzz -c requirements/test.txt -o requirements/fuzz.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCKED) --group loadtest -c requirements/test.txt -o requirements/loadtest.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCKED) --group docs -c requirements/test.txt -o requirements/docs.txt

clean: ## remove what was built, keep .venv
	rm -rf build dist *.egg-info broker/native/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f $(VENV)/.installed

distclean: clean ## remove .venv too
	rm -rf $(VENV)

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nFirst time here: make run, then open the page it names in two tabs.\n'

build-packages:
	@sh deploy/packages.sh build

test-packages:
	@sh deploy/packages.sh test

fuzz-packages:
	@sh deploy/packages.sh fuzz

# --- files ---
# Every lock file is complete, hence --no-deps; the environment's own build tools are locked, hence no build isolation.
INSTALL = $(BIN)/python -m pip install --quiet --require-hashes --no-deps -r

$(VENV)/.run: requirements/build.txt | build-packages
	@echo "making $(VENV) and installing what the broker is made with, about half a minute"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) $<
	touch $@

$(VENV)/.tests: requirements/test.txt $(VENV)/.run
	$(INSTALL) $<
	touch $@

$(VENV)/.loadtest: requirements/loadtest.txt $(VENV)/.tests
	$(INSTALL) $<
	touch $@

$(VENV)/.docs: requirements/docs.txt $(VENV)/.run
	$(INSTALL) $<
	touch $@

$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.tests | fuzz-packages
	$(INSTALL) $<
	touch $@

# The package is installed in place: the command works from everywhere and sees every change of a .py file.
$(VENV)/.installed: pyproject.toml setup.py $(VENV)/.run | build/release/.built
	BROKER_BUILD=release $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

build/release/.built: $(NATIVE_SOURCES) setup.py $(VENV)/.run
	@echo "compiling the core, about a minute"
	BROKER_BUILD=release $(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

build/debug/.built build/asan/.built: build/%/.built: $(NATIVE_SOURCES) setup.py $(VENV)/.run
	BROKER_BUILD=$* $(BIN)/python setup.py --quiet build_ext --build-lib build/$*/lib --build-temp build/$*/temp
	touch $@

# gcc has no coverage that libFuzzer understands. The link is the usual one: atheris' library brings the rest at load.
build/fuzz/.built: $(NATIVE_SOURCES) setup.py $(VENV)/.fuzz
	BROKER_BUILD=fuzz CC=clang LDSHARED="cc -shared" $(BIN)/python setup.py --quiet build_ext --build-lib build/fuzz/lib --build-temp build/fuzz/temp
	touch $@
