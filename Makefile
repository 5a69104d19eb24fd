# Everything a newcomer needs: make demo, make test, make lab, make bench NAME=launch.
# Each sets up .venv by itself; nothing is installed outside it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The CPU build of torch, where pip knows one, is small; any later pip resolution keeps it.
TORCH ?= torch==2.13.0

# Options for `make lab`; root (in a container, say) must be allowed by name.
LAB ?= $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: demo test unit lab bench soak kills faults crash lint clean

demo: $(READY)
	$(BIN)/python tests/demo.py

test: lint unit system notebooks

.PHONY: system notebooks

unit: $(READY)
	$(BIN)/python -m pytest -n auto tests/unit

system: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/system

notebooks: $(READY)
	$(BIN)/python tests/with_home.py $(BIN)/python -m pytest -p no:cacheprovider \
		--nbval --nbval-current-env --nbval-cell-timeout=300 --timeout=900 notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(READY)
	$(BIN)/python -m pip install --quiet -e ".[lab]"
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

bench: $(READY)
	$(BIN)/python -m pip show -qq torch-checkpointing || $(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/python tests/benchmarks/$(NAME).py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[test,examples]"
	touch $(READY)
