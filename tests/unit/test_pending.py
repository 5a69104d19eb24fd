"""Names that a job will return: who waits for them, and when they are no longer pending."""

from __future__ import annotations

import ast
import asyncio
import pickle
import threading
from dataclasses import replace
from typing import Any

import pytest

from resilient_nb.client import Client
from resilient_nb.core.model import JobState
from resilient_nb.core.views import JobView
from resilient_nb.detached import Detached, DetachedTask
from resilient_nb.errors import ClusterUnreachable
from resilient_nb.handles import Job
from resilient_nb.notebook.dataflow import analyse
from resilient_nb.notebook.pending import NotReady, Pending
from resilient_nb.wire import requests as rq
from tests.unit.server.control import a_job


class FakeClient(Client):
    """A client of one job, `digits#1`, that returns `v` and `w`."""

    def __init__(self, state: JobState = JobState.SUCCEEDED) -> None:
        super().__init__("tcp://nowhere:1")
        self.state = state
        self.down = False
        self.interrupted = False
        self.asked = 0

    def watch(self, job: str, seen: int = -1, timeout: float = 10.0) -> rq.Watched:
        return rq.Watched(1, self.glance(job, timeout))

    def glance(self, job: str, within: float) -> JobView:
        self.asked += 1
        if self.interrupted and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        if self.down:
            raise ClusterUnreachable("No cluster is up.")
        return replace(a_job(self.state), out=("v", "w"), returned=("v", "w"), reason="A bug.")

    def out(self, job: str) -> bytes:
        return pickle.dumps({"v": "of the job", "w": [1]})


class Notebook:
    """A namespace in which cells are run, as IPython does."""

    def __init__(self, state: JobState = JobState.SUCCEEDED, **names: Any) -> None:
        self.client = FakeClient(state)
        self.names: dict[str, Any] = {"__name__": "__main__", **names}
        self.pending = Pending(self.names)
        self.job = Job(self.client, "digits#1")
        self.pending.add(self.job, ("v", "w"))

    def run(self, cell: str) -> Any:
        """Run a cell and return what it leaves as `x`."""
        exec(compile(self.pending.visit(ast.parse(cell)), "cell", "exec"), self.names)
        return self.names.get("x")

    def asks(self, cell: str) -> bool:
        """Run a cell; say if it waited for the job."""
        before = self.client.asked
        self.run(cell)
        return self.client.asked > before


FAILED = JobState.CANCELLED  # as good as failed: there is no result


def test_a_cell_that_reads_a_name_gets_what_the_job_returned() -> None:
    notebook = Notebook(v="old")
    assert notebook.run("x = v") == "of the job"
    assert notebook.names["w"] == [1]
    assert not notebook.asks("x = w")


def test_as_long_as_the_job_has_failed_each_read_says_so() -> None:
    notebook = Notebook(FAILED, v="old")
    for _ in range(3):
        with pytest.raises(NotReady, match=r"'v' was to come from job digits#1.*A bug\.\n.*assign"):
            notebook.run("x = v")
    assert notebook.run("v = 1\nx = v") == 1
    assert notebook.run("x = v") == 1


def test_what_a_cluster_that_was_down_returns_arrives_once_it_is_up() -> None:
    notebook = Notebook(v="old")
    notebook.client.down = True
    for _ in range(2):
        with pytest.raises(NotReady, match="No cluster is up"):
            notebook.run("x = v")
    notebook.client.down = False
    assert notebook.run("x = v") == "of the job"


def test_what_does_not_unpickle_is_said_and_the_transformer_stays() -> None:
    notebook = Notebook()
    notebook.client.out = lambda job: b"c__main__\nnothing_here\n."  # type: ignore[method-assign]
    with pytest.raises(NotReady, match="AttributeError"):
        notebook.run("x = v")


@pytest.mark.parametrize(
    "cell",
    [
        "def h():\n v = 1\n return 0",
        "def h(v): return v",
        "def h(): return v",
        "v = []\nfor i in range(3): v.append(i)",
        "v = 1\nx = v",
        "for v in range(3): x = v",
        "x = [v for v in range(3)]",
    ],
)
def test_a_cell_that_needs_nothing_of_the_job_does_not_wait(cell: str) -> None:
    assert not Notebook(v="old").asks(cell)


@pytest.mark.parametrize("cell", ["def h():\n v = 1\n return 0", "x = 1", "if 0: v = 1"])
def test_a_cell_that_does_not_assign_the_name_leaves_it_pending(cell: str) -> None:
    notebook = Notebook(v="old")
    notebook.run(cell)
    assert notebook.run("x = v") == "of the job"


@pytest.mark.parametrize(
    "cell",
    ["v = 'mine'", "if 1: v = 'mine'", "globals()['v'] = 'mine'", "exec('v = \"mine\"')"],
)
@pytest.mark.parametrize("old", [{}, {"v": "old"}])
def test_a_cell_that_assigns_the_name_has_it_back(cell: str, old: dict[str, str]) -> None:
    notebook = Notebook(**old)
    assert not notebook.asks(cell)
    assert notebook.run("x = v") == "mine"


def test_so_has_one_that_assigns_what_the_name_was_before() -> None:
    notebook = Notebook(v=None)
    assert not notebook.asks("v = None\nx = v")
    assert not notebook.asks("x = v")


def test_a_cell_that_fails_before_it_assigns_the_name_leaves_it_pending() -> None:
    notebook = Notebook(v="old")
    with pytest.raises(ZeroDivisionError):
        notebook.run("1 / 0\nv = 1")
    assert notebook.run("x = v") == "of the job"


@pytest.mark.parametrize(
    ("made", "cell"),
    [
        ("def f(): return v", "x = f()"),
        ("def g(): return v\ndef f(): return g()", "x = f()"),
        ("def f(): return [v for _ in 'a'][0]", "x = f()"),
        ("class C:\n def f(self): return v\nc = C()", "x = c.f()"),
        ("class C:\n @property\n def f(self): return v", "x = C().f"),
        ("class C:\n @staticmethod\n def f(): return v\nclass D(C): pass", "x = D.f()"),
        ("import functools\n@functools.cache\ndef f(): return v", "x = f()"),
        ("def w(f): return lambda: f()\n@w\ndef f(): return v", "x = f()"),
    ],
)
def test_a_function_of_the_notebook_that_reads_the_name_is_waited_for(made: str, cell: str) -> None:
    notebook = Notebook(v="old")
    exec(made, notebook.names)
    assert notebook.run(cell) == "of the job"


def test_a_function_whose_globals_the_cell_assigns_first_is_not() -> None:
    notebook = Notebook(v="old")
    exec("def f(): return v", notebook.names)
    assert not notebook.asks("v = 1\nx = f()")
    assert notebook.names["x"] == 1


@pytest.mark.parametrize("cell", ["def h(): return v\nx = h()", "def h(a=v): return a\nx = 1"])
def test_a_function_that_the_cell_defines_and_calls_is_waited_for(cell: str) -> None:
    assert Notebook(v="old").asks(cell)


def test_a_newer_job_has_the_name() -> None:
    notebook = Notebook(FAILED, v="old")
    newer = Job(FakeClient(), "other#1")
    notebook.pending.add(newer, ("v",))
    assert notebook.run("x = v") == "of the job"
    with pytest.raises(NotReady, match="digits#1"):
        notebook.run("x = w")


def test_the_result_fills_the_namespace_once() -> None:
    notebook = Notebook(v="old")
    notebook.run("w = 'mine'")
    assert notebook.job.result()["w"] == [1]
    assert (notebook.names["v"], notebook.names["w"]) == ("of the job", "mine")
    notebook.names["v"] = "changed"
    notebook.job.result()
    assert notebook.names["v"] == "changed"


def test_so_does_awaiting_the_job() -> None:
    notebook = Notebook(v="old")

    async def cell() -> Any:
        return await notebook.job

    assert asyncio.run(cell())["v"] == notebook.names["v"] == "of the job"


def test_a_cell_run_again_gets_what_it_got_when_its_job_failed() -> None:
    names = analyse("v = v + 1", "cell")
    notebook = Notebook(FAILED, v=1)
    notebook.pending.resolve(names, "digits")
    assert notebook.names["v"] == 1
    with pytest.raises(NotReady):
        notebook.pending.resolve(names, "other")
    succeeded = Notebook(v=1)
    succeeded.pending.resolve(names, "digits")
    assert succeeded.names["v"] == "of the job"


def test_an_interrupted_wait_says_that_the_job_goes_on_and_nothing_else() -> None:
    notebook = Notebook(JobState.RUNNING, v="old")
    notebook.client.interrupted = True
    with pytest.raises(NotReady, match="Stopped waiting for 'v'"):
        notebook.run("x = v")
    words = "Detached: digits#1 goes on"
    for wait in (notebook.job.result, notebook.job.wait, lambda: notebook.job.logs(follow=True)):
        with pytest.raises(Detached, match=words) as caught:
            wait()
        assert caught.value._render_traceback_() == [str(caught.value)]

    async def cell() -> None:
        waiting = asyncio.ensure_future(notebook.job._awaited())
        await asyncio.sleep(0)
        waiting.cancel()
        notebook.client.state = JobState.SUCCEEDED  # so that its thread ends
        with pytest.raises(DetachedTask, match=words):
            await waiting

    asyncio.run(cell())


def test_the_repr_of_a_job_says_what_is_known_when_no_cluster_answers() -> None:
    client = FakeClient(JobState.RUNNING)
    job = Job(client, "digits#1")
    client.down = True
    assert repr(job) == "<job digits#1. No cluster is up.>"
    client.down = False
    assert repr(job) == "<job digits#1: running, step 20>"
    client.down = True
    assert repr(job) == "<job digits#1: running at step 20 when last seen. No cluster is up.>"
