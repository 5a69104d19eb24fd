"""The wheel: one file with the package and both extensions, made and installed without Node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import resilient_nb

ROOT = Path(__file__).parents[2]
LAB = "share/jupyter/labextensions/resilient_nb"
CONFIG = "etc/jupyter/jupyter_server_config.d/resilient_nb.json"
#: Bytes in the wheel that the JupyterLab extension may take.
MOST = 120_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and a wheel that was made of it, on a machine without Node."""
    if not (ROOT / "resilient_nb/labextension/package.json").exists():
        pytest.skip("The JupyterLab extension isn't built: `make labextension` builds it.")
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT],
        env={**os.environ, "PATH": os.devnull},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, zipfile.ZipInfo]:
    """What is in the wheel, by where it is installed below the environment or site-packages."""
    (path,) = built.glob("*.whl")
    data = f"resilient_nb-{resilient_nb.__version__}.data/data/"
    with zipfile.ZipFile(path) as archive:
        return {info.filename.removeprefix(data): info for info in archive.infolist()}


def _json(built: Path, info: zipfile.ZipInfo) -> dict[str, object]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        found = json.loads(archive.read(info))
    assert isinstance(found, dict)
    return found


def test_the_wheel_brings_an_extension_that_jupyterlab_finds(
    built: Path, wheel: dict[str, zipfile.ZipInfo]
) -> None:
    described = _json(built, wheel[f"{LAB}/package.json"])
    assert described["version"] == resilient_nb.__version__
    lab = described["jupyterlab"]
    assert isinstance(lab, dict)
    assert f"{LAB}/{lab['_build']['load']}" in wheel
    assert f"{LAB}/schemas/resilient_nb/plugin.json" in wheel
    assert _json(built, wheel[f"{LAB}/install.json"])["packageName"] == "resilient_nb"


def test_the_server_extension_is_enabled_by_installing(
    built: Path, wheel: dict[str, zipfile.ZipInfo]
) -> None:
    config = _json(built, wheel[CONFIG])
    assert config == {"ServerApp": {"jpserver_extensions": {"resilient_nb": True}}}


def test_the_wheel_has_the_package_and_nothing_that_only_developers_need(
    wheel: dict[str, zipfile.ZipInfo],
) -> None:
    assert "resilient_nb/__init__.py" in wheel
    assert "resilient_nb/cli.py" in wheel or "resilient_nb/cli/__init__.py" in wheel
    tops = {PurePosixPath(name).parts[0] for name in wheel}
    dist_info = f"resilient_nb-{resilient_nb.__version__}.dist-info"
    assert tops == {"resilient_nb", "share", "etc", dist_info}
    unwanted = [n for n in wheel if n.endswith(".map") or n.startswith("resilient_nb/labextension")]
    assert unwanted == []


def test_the_extension_is_small(wheel: dict[str, zipfile.ZipInfo]) -> None:
    size = sum(info.compress_size for name, info in wheel.items() if name.startswith(LAB))
    assert size <= MOST


def test_the_sdist_has_what_was_built_and_what_it_was_built_from(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {PurePosixPath(name).relative_to(path.name.removesuffix(".tar.gz")).as_posix()
                 for name in archive.getnames()}  # fmt: skip
    assert "resilient_nb/labextension/package.json" in names
    assert {"labextension/package-lock.json", "labextension/src/index.ts"} <= names
    assert not [name for name in names if "node_modules" in name or name.endswith(".map")]


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((ROOT / "labextension/package-lock.json").read_text())
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
