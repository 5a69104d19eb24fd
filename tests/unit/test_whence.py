"""`notebook.whence`: where a job was submitted, so that a click leads back to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resilient_nb.core.events import JobSubmitted
from resilient_nb.core.model import Cell
from resilient_nb.notebook.whence import below, cell_id, notebook_path
from resilient_nb.testing.builders import START, a_spec
from resilient_nb.wire.codec import build, plain


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A Jupyter server's word in the runtime folder; the environment of a kernel that it starts."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "jpserver-42.json").write_text(json.dumps({"root_dir": "/home/ada", "pid": 42}))
    return {"JPY_PARENT_PID": "42"}


@pytest.mark.parametrize(("session", "path"), [
    ("/home/ada/books/a b.ipynb", "books/a b.ipynb"),
    ("/home/ada/a.ipynb", "a.ipynb"),
    ("/home/adam/a.ipynb", "/home/adam/a.ipynb"),  # another place
    ("books/a.ipynb", "books/a.ipynb"),  # the session has no name
    ("", ""),
])  # fmt: skip
def test_a_notebooks_path_is_the_servers(server: dict[str, str], session: str, path: str) -> None:
    assert notebook_path({**server, "JPY_SESSION_NAME": session}) == path


@pytest.mark.parametrize("text", [None, "", "no json", "[]", "{}"])
def test_without_a_servers_word_the_path_stays(
    server: dict[str, str], tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "jpserver-42.json"
    file.unlink() if text is None else file.write_text(text)
    assert notebook_path({**server, "JPY_SESSION_NAME": "/home/ada/a.ipynb"}) == "/home/ada/a.ipynb"
    assert notebook_path({}) == ""
    assert below("/a/b.ipynb", "/") == "a/b.ipynb"


class Shell:
    """As much of a kernel's shell as knows what it was asked."""

    def __init__(self, parent: dict[str, Any]) -> None:
        self._parent = parent

    def get_parent(self) -> dict[str, Any]:
        return self._parent


def test_the_cells_id_is_what_the_frontend_says() -> None:
    assert cell_id(Shell({"header": {}, "metadata": {"cellId": "c-1", "trusted": True}})) == "c-1"
    for parent in ({}, {"metadata": {}}, {"metadata": None}, {"metadata": {"cellId": 3}}):
        assert cell_id(Shell(parent)) == ""
    assert cell_id(object()) == ""  # a terminal


def test_a_job_of_an_older_journal_has_no_notebook() -> None:
    spec = a_spec(cell=Cell("pass", notebook="a.ipynb", cell_id="c"))
    event = JobSubmitted(START, "a#1", "a", 1, "r", spec)
    told = plain(event)
    assert build(JobSubmitted, told) == event
    del told["spec"]["cell"]["notebook"], told["spec"]["cell"]["cell_id"]
    assert build(JobSubmitted, told).spec.cell == Cell("pass")
