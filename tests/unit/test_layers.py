"""Imports go downward only, and what must be light stays light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import resilient_nb

ROOT = Path(resilient_nb.__file__).parents[1]
PACKAGE = ROOT / "resilient_nb"
HEAVY = ["torch", "distributed", "dask", "IPython", "zarr", "numpy", "ipywidgets", "pandas"]


def loaded_by(statement: str) -> set[str]:
    """Return the top-level names of all modules that a statement loads in a fresh process."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def modules(folder: str) -> list[str]:
    files = sorted((PACKAGE / folder).glob("*.py"))
    return [f"resilient_nb.{folder}.{file.stem}" for file in files if file.stem[0] != "_"]


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs the source tree")
def test_the_contracts_in_pyproject_hold() -> None:
    """In a process of its own: import-linter configures logging and caches by folder."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()",
         "--no-cache"],
        capture_output=True, text=True, timeout=100, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import resilient_nb").isdisjoint({*HEAVY, "msgspec", "psutil", "asyncio"})


def test_the_core_is_pure() -> None:
    names = [*modules("core"), "resilient_nb.ports", "resilient_nb.errors"]
    found = loaded_by("import " + ", ".join(names))
    assert found.isdisjoint({*HEAVY, "msgspec", "asyncio", "sqlite3", "logging", "psutil"})


def test_messages_need_only_msgspec() -> None:
    found = loaded_by("import " + ", ".join([*modules("wire"), "resilient_nb.config"]))
    assert "msgspec" in found
    assert found.isdisjoint({*HEAVY, "asyncio", "sqlite3", "psutil"})


def test_the_supervisor_loads_no_torch_by_itself() -> None:
    """What ranks need is preloaded by the entry; the supervisor must not depend on it."""
    assert loaded_by("import resilient_nb.supervisor.loop").isdisjoint(HEAVY)


def test_the_engine_runs_without_dask() -> None:
    found = loaded_by("import resilient_nb.control.engine, resilient_nb.control.commands")
    assert found.isdisjoint({"torch", "distributed", "dask", "IPython", "zarr"})


def test_control_and_agent_load_no_torch() -> None:
    found = loaded_by("import resilient_nb.control.plugin, resilient_nb.agent.plugin")
    assert "distributed" in found
    assert found.isdisjoint({"torch", "IPython", "zarr"})


def test_what_only_some_want_is_loaded_by_nobody_else() -> None:
    found = loaded_by("import resilient_nb.control.plugin, resilient_nb.notebook.magic")
    assert found.isdisjoint({"mlflow", "opentelemetry", "prometheus_client", "jupyter_server"})


def test_the_server_extension_loads_no_torch() -> None:
    """It lives in every Jupyter server, also in those that never run a job."""
    found = loaded_by("import resilient_nb; resilient_nb._jupyter_server_extension_points()")
    assert "jupyter_server" in found
    assert found.isdisjoint({"torch", "zarr", "pandas"})


def test_the_shipped_builders_load_no_torch() -> None:
    found = loaded_by(f"import {', '.join(modules('testing'))}")
    assert found.isdisjoint({"torch", "distributed", "IPython", "hypothesis", "pytest"})


def test_the_facade_offers_what_it_lists() -> None:
    for name in resilient_nb.__all__:
        assert getattr(resilient_nb, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        resilient_nb.nonsense  # noqa: B018
