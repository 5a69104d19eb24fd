"""Capture: what a cell needs, sent in one payload, runs as it would in the notebook."""

from __future__ import annotations

import ast
import linecache
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from resilient_nb.errors import CannotCapture, InvalidRequest
from resilient_nb.notebook.capture import (
    Capture,
    analyse,
    capture,
    dry_run_text,
    explain_missing,
    restore,
)
from resilient_nb.notebook.options import parse_cell_line

Namespace = dict[str, Any]


def notebook(source: str = "", **values: object) -> Namespace:
    """Return a namespace as a notebook has it, after a cell with this source."""
    namespace: Namespace = {"__name__": "__main__", **values}
    exec(compile(source, "<notebook>", "exec", dont_inherit=True), namespace)
    return namespace


def captured(cell: str, namespace: Namespace, *out: str, measure: bool = False) -> Capture:
    return capture(analyse(cell, "<cell>"), namespace, out, measure=measure)


@contextmanager
def rank(payload: bytes) -> Iterator[Namespace]:
    """Restore as a rank does: into the globals of a new `__main__`."""
    module, before = types.ModuleType("__main__"), sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        namespace = vars(module)
        namespace.update(restore(payload))
        yield namespace
    finally:
        sys.modules["__main__"] = before


def run_in_rank(cell: str, namespace: Namespace, *out: str) -> Namespace:
    with rank(captured(cell, namespace, *out).payload) as restored:
        exec(compile(cell, "<cell>", "exec", dont_inherit=True), restored)
        return restored


def names_of(found: Capture) -> list[str]:
    return [entry.name for entry in found.entries]


# -- what is sent


def test_what_the_cell_uses_is_sent_and_nothing_else() -> None:
    here = notebook(x=1, y=[2], z=3, list=4, In=["a"], _=5, _i1="b")
    found = captured("y.append(x); print(list, In, _, _i1); import math; math.pi; w = 1", here)
    assert names_of(found) == ["y", "x", "list"]
    assert restore(found.payload) == {"y": [2], "x": 1, "list": 4}
    assert found.missing == ("In", "_", "_i1")


def test_the_payload_is_a_plain_pickle() -> None:
    payload = captured("f(x)", notebook("def f(x): return x", x=1)).payload
    code = f"import pickle; n = pickle.loads({payload!r}); print(n['f'](n['x']))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "1\n"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, resilient_nb.notebook.capture; "
        "print(*{'torch', 'IPython', 'distributed', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"


def test_shared_objects_stay_shared() -> None:
    shared = [1]
    there = restore(captured("a, b, c", notebook(a=shared, b=shared, c={"in": shared})).payload)
    assert there["a"] is there["b"]
    assert there["a"] is there["c"]["in"]  # type: ignore[index]


def test_an_optimizer_still_steps_its_model() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    cell = (
        "before = model.weight.detach().clone()\n"
        "optimizer.zero_grad(); model(torch.ones(3)).sum().backward(); optimizer.step()\n"
        "moved = not torch.equal(before, model.weight)\n"
    )
    there = run_in_rank(cell, notebook(model=model, optimizer=optimizer, torch=torch))
    assert there["moved"]
    assert there["optimizer"].param_groups[0]["params"][0] is there["model"].weight


def test_tensors_that_look_at_one_memory_still_do() -> None:
    whole = torch.arange(6.0)
    here = notebook(whole=whole, part=whole[2:4], bits=whole.view(torch.int32), none=torch.zeros(0))
    there = run_in_rank("part.zero_(); whole, none, bits", here)
    assert there["whole"].tolist() == [0.0, 1.0, 0.0, 0.0, 4.0, 5.0]
    assert there["bits"].dtype == torch.int32
    assert there["bits"][2] == 0
    assert there["none"].shape == (0,)
    assert whole.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3, dtype=torch.bfloat16), torch.ones(2, 3).T, torch.tensor(True),
        torch.ones(2, requires_grad=True), torch.nn.Parameter(torch.ones(2)), torch.arange(5)[::2],
    ],
    ids=["bfloat16", "transposed", "scalar", "leaf", "parameter", "strided"],
)  # fmt: skip
def test_tensors_come_back_as_they_were(value: torch.Tensor) -> None:
    there: Any = restore(captured("value", notebook(value=value)).payload)["value"]
    assert type(there) is type(value)
    assert torch.equal(there, value)
    assert (there.dtype, there.stride()) == (value.dtype, value.stride())
    assert there.requires_grad == value.requires_grad
    assert there.untyped_storage().data_ptr() % 64 == 0


def test_a_helper_sees_what_the_cell_assigns_as_in_the_notebook() -> None:
    here = notebook("rate = 1\ndef step():\n    global count\n    count = rate\n    return rate")
    there = run_in_rank("first = step(); rate = 2; second = step()", here)
    assert (there["first"], there["second"], there["count"]) == (1, 2, 2)


def test_a_helper_may_use_the_runtimes_run() -> None:
    class Handle:
        __resilient_nocapture__ = True

    here = notebook("def size(): return run.world_size", run=Handle())
    with rank(captured("n = size()", here).payload) as there:
        assert "run" not in there
        there["run"] = types.SimpleNamespace(world_size=4)
        exec("n = size()", there)
        assert there["n"] == 4


def test_what_helpers_use_is_listed_with_them() -> None:
    here = notebook("lr = 0.1\ndef inner(): return lr\ndef outer(): return inner()")
    found = captured("outer()", here)
    assert [(e.name, e.via) for e in found.entries] == [
        ("outer", None), ("inner", "outer"), ("lr", "inner"),
    ]  # fmt: skip


def test_classes_and_closures_of_the_notebook_are_sent_by_value() -> None:
    here = notebook(
        "base = 1\n"
        "def maker(n):\n"
        "    def count(m): return 0 if m == 0 else n + count(m - 1)\n"
        "    return count\n"
        "class A:\n    def get(self): return base\n"
        "class B(A):\n    def get(self): return super().get() + 1\n"
        "b, count = B(), maker(2)\n"
    )
    there = run_in_rank("base = 10; got = b.get(), count(3), isinstance(b, B)", here)
    assert there["got"] == (11, 6, True)


def test_what_pickle_would_only_name_is_sent_by_value_too() -> None:
    here = notebook(
        "import dataclasses, enum, functools, typing\n"
        "@functools.lru_cache(maxsize=7)\n"
        "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "Id = typing.NewType('Id', int)\n"
        "@dataclasses.dataclass\n"
        "class Item:\n    id: Id\n"
        "class Color(enum.Enum): RED = 1\n"
        "class Tools:\n"
        "    @classmethod\n    def make(cls): return cls()\n"
        "    @functools.cached_property\n    def two(self): return 2\n"
        "P = typing.ParamSpec('P')\n"
    )
    cell = "got = fib(30), Item(Id(1)).id, Color.RED.value, Tools.make().two, fib.cache_info()"
    there = run_in_rank(cell, here)
    assert there["got"][:4] == (832040, 1, 1, 2)
    assert there["got"][4].maxsize == 7
    assert there["got"][4].hits == 28
    with pytest.raises(CannotCapture, match=r"`P` can't be sent .* ParamSpec is pickled by name"):
        captured("P", here)


def test_a_top_level_await_needs_no_more() -> None:
    found = captured("y = await f(x)", notebook("async def f(x): return x", x=1))
    assert names_of(found) == ["f", "x"]


def test_sources_of_helpers_travel() -> None:
    text = "def helper():\n    return inner()\n"
    linecache.cache["<ipython-input-1>"] = (len(text), None, text.splitlines(True), "")
    here: Namespace = {"__name__": "__main__", "inner": len}
    exec(compile(text, "<ipython-input-1>", "exec"), here)
    assert captured("helper()", here).sources == {"<ipython-input-1>": text}
    assert captured("inner()", here).sources == {}


# -- what can't be sent


def test_the_culprit_is_named_with_reason_and_way_out() -> None:
    here = notebook(a=1, conn=sqlite3.connect(":memory:"), z=2)
    with pytest.raises(CannotCapture) as caught:
        captured("a, conn, z", here)
    assert str(caught.value) == (
        "`conn` can't be sent to the workers: it is a sqlite3.Connection (TypeError: cannot "
        "pickle 'sqlite3.Connection' object). Make it inside the cell, or del it."
    )


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("x = {'a': [1, lock]}", "`x` can't be sent to the workers: `x['a'][1]` is a _thread.lock"),
        ("class A: pass\nx = A()\nx.in_ = A()\nx.in_.k = lock", "`x.in_.k` is a _thread.lock"),
        ("def x(): return lock", "`lock`, which `x` uses, can't be sent to the workers: it is a"),
        ("def y(): return lock\ndef x(): return y()", "`lock`, which `y` uses, can't be"),
        ("def m(k):\n    return lambda: k\nx = m(lock)", "`x: k` is a _thread.lock"),
        ("def x(k=lock): return k", "`x: a default` is a _thread.lock"),
        ("x = (i for i in [])", "it is a generator"),
    ],
)
def test_the_part_to_blame_is_found(source: str, named: str) -> None:
    here = notebook(source, lock=threading.Lock())
    with pytest.raises(CannotCapture) as caught:
        captured("x", here)
    assert named in str(caught.value)


def test_functions_that_call_each_other_still_show_the_culprit() -> None:
    here = notebook("def a(): return b(), lock\ndef b(): return a()", lock=threading.Lock())
    with pytest.raises(CannotCapture, match="`lock`, which `a` uses,"):
        captured("b()", here)


def test_what_belongs_to_the_notebook_is_never_sent() -> None:
    class Job:
        __resilient_nocapture__ = True

    with pytest.raises(CannotCapture, match=r"`job` can't be sent .* it belongs to the notebook"):
        captured("job", notebook(job=Job()))
    with pytest.raises(CannotCapture, match=r"`jobs\[0\]` is a .*Job, and it belongs"):
        captured("jobs", notebook(jobs=[Job()]))


@pytest.mark.parametrize(
    "cell",
    [
        "for i in n: x = i\nx",
        "with m: x = 1\nx",
        "def f(): return x\nx = 1\nf()",
        "x = 1\nhelper()",
    ],
)
def test_a_leftover_that_the_cell_makes_first_needn_t_be_sendable(cell: str) -> None:
    here = notebook("def helper(): return x", x=threading.Lock(), n=[1], m=1)
    found = captured(cell, here)
    assert found.left_out == ("x",)
    assert "x" not in names_of(found)


def test_what_the_cell_really_needs_must_be_sendable() -> None:
    with pytest.raises(CannotCapture, match="`x` can't be sent"):
        captured("if n: x = 1\nx", notebook(x=threading.Lock(), n=1))


# -- names that are missing, and results


@pytest.mark.parametrize(
    ("cell", "missing"),
    [
        ("modle(1)", ("modle",)),
        ("def f(): return later()\ndef later(): pass", ()),
        ("try: cuda\nexcept NameError: pass", ()),
        ("from torch import *\nones(1)", ()),
        ("exec('q = 1'); q", ()),
        ("x: Undefined = 1", ()),
        ("if 0: y = 1\ny", ()),
        ("display(1)", ("display",)),
        ("exit()", ()),
        ("__name__; len", ()),
        ("class A:\n def m(self): return __class__, __q", ("_A__q",)),
    ],
)
def test_missing_names(cell: str, missing: tuple[str, ...]) -> None:
    assert captured(cell, notebook(model=1)).missing == missing


def test_missing_names_are_explained() -> None:
    here = notebook(model=1, _=2)
    names = analyse("x = 1\nmodle, _, display(zzzz)\nasyncio.run()", "<cell>")
    assert explain_missing(names, capture(names, here).missing, here).split("\n") == [
        "line 2 uses `modle`, which neither the cell nor the notebook defines; did you mean model?",
        "line 2 uses `_`, which is the notebook's history and isn't sent. "
        "Give the value a name of its own.",
        "line 2 uses `display`: a rank has no output cell: print it, or return it with --out.",
        "line 2 uses `zzzz`, which neither the cell nor the notebook defines.",
        "line 3 uses `asyncio`, which neither the cell nor the notebook defines: import asyncio.",
    ]


def test_ipythons_own_names_stay_unless_the_user_took_them() -> None:
    from IPython.core.autocall import ExitAutocall
    from IPython.core.interactiveshell import InteractiveShell, _modified_open

    method = types.MethodType(InteractiveShell.get_ipython, object())
    here = notebook(open=_modified_open, exit=ExitAutocall(), quit=1, get_ipython=method)
    found = captured("open('f'), exit, quit, get_ipython", here)
    assert names_of(found) == ["quit"]
    assert found.missing == ("get_ipython",)


def test_out_that_the_cell_can_t_make_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        captured("model = 1", notebook(), "modle")
    assert str(caught.value) == "--out modle: the cell never assigns it; did you mean model?"


def test_out_is_sent_where_the_cell_may_leave_it_as_it_was() -> None:
    here = notebook(x=[1], y=2, c=False)
    assert names_of(captured("if c: x = 0", here, "x", "y")) == ["c", "x", "y"]
    assert names_of(captured("x = 0", here, "x")) == []
    assert run_in_rank("if c: x = 0", here, "x")["x"] == [1]


# -- the dry run


def test_the_dry_run_tells_names_and_sizes() -> None:
    cell = "a = w + helper()\nb = net"
    here = notebook(
        "rate = 0.5\ndef helper(): return rate",
        w=torch.zeros(1797, 1, 8, 8), net=torch.nn.Linear(2, 3),
    )  # fmt: skip
    found = captured(cell, here, "a", measure=True)
    options = parse_cell_line("digits --workers 2 --checkpoint-every 20 --out a")
    assert not hasattr(options, "verb")
    text = dry_run_text(options, found, cell)  # type: ignore[arg-type]
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert lines[:2] == [
        "Dry run: nothing is submitted.",
        "Run digits: 2 workers, priority normal, checkpoint every 20 steps, retries 3, "
        "resume auto, seed 0.",
    ]
    assert lines[2].startswith("Sends 4 names in ")
    assert lines[2].endswith(" and the cell: 2 lines, 24 B.")
    times = "\N{MULTIPLICATION SIGN}"
    assert lines[3].startswith(f"w Tensor 1797{times}1{times}8{times}8 float32 450 KiB")
    assert lines[4].startswith("helper function ")
    assert lines[5].startswith("net Linear, 9 parameters ")
    assert lines[6].startswith("rate 0.5 (used by helper) ")
    assert lines[7] == "Returns a."


def test_a_dry_run_says_what_the_queue_is_asked_for() -> None:
    line = (
        "digits --workers 2:8 --scale-lr sqrt --memory 2GiB --gpus 1 --priority high --admin "
        "--group vision --after prep,other#2 --duration 90m"
    )
    text = dry_run_text(parse_cell_line(line), captured("pass", notebook()), "pass")  # type: ignore[arg-type]
    assert text.split("\n")[1] == (
        "Run digits: 2 to 8 workers (elastic), learning rate scaled sqrt, each with 2.00 GiB of "
        "memory and 1 GPU, priority high in the admin lane, group vision, after prep, other#2, "
        "expected to run 1 h 30 min, checkpoint interval auto (at most 1 %), retries 3, "
        "resume auto, seed 0."
    )


def test_measured_sizes_add_up_to_about_the_payload() -> None:
    shared = np.zeros(100_000)
    found = captured("a, b, c", notebook(a=shared, b=[shared], c="x" * 5000), measure=True)
    sizes = {entry.name: entry.nbytes or 0 for entry in found.entries}
    assert sizes["a"] >= 800_000
    assert sizes["b"] < 100
    assert abs(sum(sizes.values()) - len(found.payload)) < 500
    assert [entry.nbytes for entry in captured("a", notebook(a=1)).entries] == [None]


@pytest.mark.parametrize(
    ("value", "summary"),
    [
        (None, "None"), (True, "True"), (0.25, "0.25"), ("text", "'text'"), ("x" * 99, "str of 99"),
        ([1, 2], "list of 2"), ({}, "dict of 0"), (np.float32(2), "float32 float32"),
        (np.zeros((2, 3), "int8"), "ndarray 2\N{MULTIPLICATION SIGN}3 int8"), (len, "function"),
        (threading, "module threading"), (threading.Thread, "class"), (object(), "object"),
        (torch.nn.LazyLinear(2), "LazyLinear, parameters not made yet"),
    ],
)  # fmt: skip
def test_summaries(value: object, summary: str) -> None:
    from resilient_nb.notebook.summary import describe

    assert describe(value) == summary


# -- speed


def best_of(rounds: int, work: Callable[[], object]) -> float:
    def once() -> float:
        begin = time.process_time()  # other processes don't count
        work()
        return time.process_time() - begin

    return min(once() for _ in range(rounds))


def test_capture_is_fast() -> None:
    here = notebook(
        "rate = 0.1\ndef helper(x): return x * rate", n=5, name="a", net=torch.nn.Linear(9, 9)
    )
    cell = "for i in range(n):\n    y = helper(net(i))\nprint(name, y)\n"
    assert best_of(20, lambda: captured(cell, here)) < 0.005
    here["big"] = torch.zeros(25_000_000)
    assert best_of(2, lambda: captured("big.sum()", here)) < 0.5


def test_a_payload_is_known_by_its_digest() -> None:
    found = captured("x", notebook(x=1))
    assert pickle.loads(found.payload) == {"x": 1}
    assert len(found.digest) == 64
    assert found.digest == captured("x", notebook(x=1)).digest
    assert found.digest != captured("x", notebook(x=2)).digest
    assert ast.literal_eval(repr(found.sources)) == {}
