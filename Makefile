# make demo      open the page                make lint    check style and types
# make test      style check and all tests    make clean   remove caches, keep the environment
# make install   prepare .venv for all else  make docs    the interface's pages in build/docs
# make check     style, types and the fast tests, before each commit
# make space     the folder of a Hugging Face Space in build/space, and the line that uploads it
#
# Each target prepares what it needs: a virtual environment in .venv, the packages, and for the
# tests a Chromium. A second run only looks at time stamps.

VENV   := .venv
PY     := $(VENV)/bin/python
# Two processes of one thread each: the tensors of the tests are small.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
PIP    := $(PY) -m pip --disable-pip-version-check --no-input

# Starting each candidate tells more than finding it: version managers leave shims that fail.
FIND_PYTHON := for p in python3.11 python3 python3.12 python3.13; do \
	if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo "$$p"; break; fi; done

CHROMIUM_PACKAGES := chromium fonts-dejavu-core fonts-noto-color-emoji

# Each by name: of a package with __all__, pdoc shows only what that lists, and it does not find
# what is only imported when asked for.
ROOMS := $(filter-out asyncdsb/networks/%,$(wildcard asyncdsb/*.py asyncdsb/*/*.py))
MODULES := asyncdsb.networks $(filter-out %.__init__ %.__main__, \
	$(subst /,.,$(basename $(ROOMS))))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check install lint docs space clean distclean chromium

help:
	@sed -n '1,5s/^# //p' Makefile

demo: $(VENV)/.stamp-demo
	$(PY) app.py --open

test: $(VENV)/.stamp-test chromium
	$(PY) -m ruff check .
	$(PYTEST)

check: lint
	$(PYTEST) -m "not slow"

install: $(VENV)/.stamp-test

lint: $(VENV)/.stamp-test
	$(PY) -m ruff check .
	$(PY) -m mypy

docs: $(VENV)/.stamp-test
	$(PY) -W "ignore:Found 'AsyncDSBPipeline'" -m pdoc --docformat google \
		--output-directory build/docs asyncdsb $(MODULES) train

$(VENV)/.stamp-venv:
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
		found=$$(python3 --version 2>&1 || true); \
		echo "asyncdsb needs Python 3.11 or newer, found: $${found:-none}" >&2; exit 1; \
	fi; \
	if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		echo "creating $(VENV) with $$python"; \
		"$$python" -m venv --clear $(VENV) || { \
			echo "could not create $(VENV); on Debian: apt-get install python3-venv" >&2; exit 1; }; \
	fi
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-venv requirements.txt
	$(PIP) install --quiet -r requirements.txt
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-demo requirements.txt pyproject.toml
	$(PIP) install --quiet -e '.[test,eval]'
	@touch $@

# The page's tests drive a real browser. Debian's package is used where there is none yet.
chromium:
	@for name in chromium chromium-browser google-chrome; do \
		if command -v $$name >/dev/null 2>&1; then exit 0; fi; \
	done; \
	if ! command -v apt-get >/dev/null 2>&1; then \
		echo "the tests of the page need Chromium on the PATH: please install it" >&2; exit 1; \
	fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=env; \
	elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root="sudo -n env"; \
	else \
		echo "the tests of the page need Chromium: apt-get install $(CHROMIUM_PACKAGES)" >&2; exit 1; \
	fi; \
	echo "installing $(CHROMIUM_PACKAGES)"; \
	$$as_root apt-get update -qq && \
	$$as_root DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $(CHROMIUM_PACKAGES) >/dev/null

# What a Hugging Face Space needs, and nothing else.
space:
	rm -rf build/space && mkdir -p build/space
	git archive HEAD app.py asyncdsb requirements.txt README.md LICENSE \
		$(addprefix assets/,weights examples opening.json sheets screenshots) \
		| tar -x -C build/space
	printf '%s filter=lfs diff=lfs merge=lfs -text\n' '*.safetensors' '*.webp' '*.jpg' '*.png' \
		> build/space/.gitattributes
	@echo "hf upload USER/SPACE build/space . --repo-type space"

clean:
	rm -rf .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find asyncdsb train tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
