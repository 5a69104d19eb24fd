# Everything a newcomer needs: make demo, make test, make lab, make bench NAME=launch.
# Each sets up .venv by itself; nothing is installed outside it and labextension/node_modules,
# but for Chromium, where root runs the tests and it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The JupyterLab extension: built here with Node 20 and npm. What is installed needs neither.
FACE := labextension
NODE_READY := $(FACE)/node_modules/.ready
BUILT := resilient_nb/labextension/package.json
FACE_SOURCES := $(addprefix $(FACE)/,package.json tsconfig.json tsconfig.build.json install.json) \
	$(shell find $(FACE)/src $(FACE)/style $(FACE)/schema -type f -not -path "*/__tests__/*")

# The CPU build of torch, where pip knows one, is small; any later pip resolution keeps it.
TORCH ?= torch==2.13.0

# Options for `make lab`; root (in a container, say) must be allowed by name.
LAB ?= $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: demo test unit system notebooks browser jest lint labextension lab bench pictures soak kills \
	faults crash chromium clean

demo: $(READY)
	$(BIN)/python tests/demo.py

test: lint jest unit system notebooks browser

unit: $(READY) $(BUILT)
	$(BIN)/python -m pytest -n auto tests/unit

system: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/system

notebooks: $(READY)
	$(BIN)/python tests/with_home.py $(BIN)/python -m pytest -p no:cacheprovider \
		--nbval --nbval-current-env --nbval-cell-timeout=300 --timeout=900 notebooks

jest: $(NODE_READY)
	cd $(FACE) && npm test --silent

# In a real JupyterLab and Chromium.
browser: $(READY) $(BUILT) chromium
	$(BIN)/python -m pytest tests/browser

lint: $(READY) $(NODE_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd $(FACE) && npm run --silent types

labextension: $(BUILT)

lab: $(READY) $(BUILT)
	$(BIN)/jupyter lab $(LAB) notebooks/quickstart.ipynb

# JOBS random jobs of three users on four slots, with kills and preemptions (ten minutes for 300).
JOBS ?= 300
soak: $(READY)
	RESILIENT_NB_SOAK=$(JOBS) $(BIN)/python -m pytest -s tests/system/test_soak.py

# KILLS kill -9 of ranks, writers and supervisors at random; every run must end with the same bits.
KILLS ?= 200
kills: $(READY)
	$(BIN)/python tests/kills.py $(KILLS)

# Every fault made for real, with the cause and decision that are right; FAULTS: only these.
FAULTS ?=
faults: $(READY)
	$(BIN)/python -m tests.faults $(if $(FAULTS),--only "$(FAULTS)")

# POINTS crash points of a checkpoint's commit (kill, EIO, full disk, power loss) and DAMAGES
# damaged objects, at random from SEED: nothing may be torn, lost or unnoticed.
POINTS ?= 10000
DAMAGES ?= 1000
SEED ?= 1
crash: $(READY)
	$(BIN)/python -m tests.crash_points --points $(POINTS) --seed $(SEED)
	$(BIN)/python -m tests.bit_flips --points $(DAMAGES) --seed $(SEED)

bench: $(READY) $(if $(filter ui,$(NAME)),$(BUILT) chromium)
	$(BIN)/python -m pip show -qq torch-checkpointing || $(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/python tests/benchmarks/$(NAME).py

# The README's, of a real run.
pictures: $(READY) $(BUILT) chromium
	$(BIN)/python tests/shots.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf $(FACE)/node_modules $(FACE)/lib resilient_nb/labextension

# Without the JupyterLab extension, so that only what needs it needs Node.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	mkdir -p resilient_nb/labextension
	SKIP_JUPYTER_BUILDER=1 $(BIN)/python -m pip install --quiet -e ".[test,examples]"
	touch $(READY)

# A minute, once for each lock file.
$(NODE_READY): $(FACE)/package-lock.json
	@command -v npm >/dev/null || { \
		echo "The JupyterLab extension is built with Node 20 and npm: install them first."; exit 1; }
	cd $(FACE) && npm ci --silent
	touch $@

# The second line puts what was built where this environment's JupyterLab finds it.
$(BUILT): $(READY) $(NODE_READY) $(FACE_SOURCES)
	cd $(FACE) && PATH="$(CURDIR)/$(BIN):$$PATH" npm run --silent build
	SKIP_JUPYTER_BUILDER=1 $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .

# As tests/browser/chromium.py looks for it.
chromium:
	@for name in $$CHROMIUM chromium chromium-browser google-chrome; do \
		command -v "$$name" >/dev/null && exit 0; \
	done; \
	{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium; } || \
	{ echo "The browser tests need Chromium: install it (apt install chromium), or set CHROMIUM to it."; exit 1; }
