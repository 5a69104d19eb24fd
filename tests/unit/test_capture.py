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
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

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


# -- data flow


@pytest.mark.parametrize(
    ("cell", "reads"),
    [
        ("y = x", "x"),
        ("x = 1; y = x", ""),
        ("x += 1", "x"),
        ("x: int = y; z = x", "int y"),
        ("x: int", "int"),
        ("del x", "x"),
        ("del x; x", "x"),
        ("if c: x = 1\nx", "c x"),
        ("if c: x = 1\nelse: x = 2\nx", "c"),
        ("if c: raise x\nelse: y = 2\ny", "c x"),
        ("for i in n: j = i\nj", "n j"),
        ("for i in n: pass\nelse: j = 1\nj", "n"),
        ("for i in n:\n break\nelse: j = 1\nj", "n j"),
        ("while True:\n j = 1\n break\nj", ""),
        ("while c: j = 1\nj", "c j"),
        ("try: x = f()\nexcept E: pass\nx", "f E x"),
        ("try: x = f()\nexcept E: x = 1\nx", "f E"),
        ("try: x = f()\nfinally: x", "f x"),
        ("try: f()\nfinally: x = 1\nx", "f"),
        ("try: pass\nexcept E as e: e", "E"),
        ("with m as x: y = x\ny", "m y"),
        ("import a.b as c, d.e\nc, d", ""),
        ("from a import b\nb", ""),
        ("match v:\n case [x, *y]: x, y\n case {'k': z, **w}: z, w\n case P(q=u): u\nx", "v P x"),
        ("match v:\n case x: pass\nx", "v"),
        ("def f(a, b=c): return a + d + e\ne = 1", "c d e"),
        ("e = 1\ndef f(): return e", ""),
        ("def f():\n x = 1\n def g(): return x\n return g", ""),
        ("def f():\n global x\n x = 1\nf(); x", "x"),
        ("def f(): return f", ""),
        ("@d\ndef f(): return f", "d f"),
        ("class A(B):\n x = 1\n def m(self): return x", "B x"),
        ("class A:\n x = x\n y = x", "x"),
        ("class A:\n x = 1\n del x\n y = x", "x"),
        ("class A:\n __p = 1\n def m(self): return __q", "_A__q"),
        ("[i for i in n if i in m]", "n m"),
        ("[(j := i) for i in n]; j", "n j"),
        ("(x := 1) and (y := 2); x, y", "y"),
        ("a < (b := c) < (d := b); b, d", "a c d"),
        ("{a: b, (b := 1): 2}", "a b"),
        ("lambda a, b=c: a + b + d", "c d"),
        ("f'{x!r:{w}}'", "x w"),
        ("x, y[x] = z, 1", "z y"),
        ("print(x)", "print x"),
        ("assert (x := 1)\nx", "x"),
        ("async def f():\n async for i in a: i\nawait f()", "a"),
        ("[i async for i in a]", "a"),
        ("run.log(loss=run.step)", ""),
    ],
)
def test_reads_are_names_that_a_path_reads_before_it_made_them(cell: str, reads: str) -> None:
    assert set(analyse(cell, "<cell>").reads) == set(reads.split())


def test_the_rest_of_what_a_cell_does_with_names() -> None:
    cell = "import a.b\nx = run.step\nfor i in x: y = 1\ndel a\ndef f():\n global g\n g = 1\n"
    found = analyse(cell, "<cell>")
    assert found.assigns == {"a", "x", "i", "y", "f", "g"}
    assert found.deletes == {"a"}
    assert found.settled == {"a", "x", "f"}
    assert found.usually_settled == {"a", "x", "i", "y", "f"}
    assert found.uses_run
    assert not found.awaits
    assert not found.open_ended
    assert not analyse("run = 1; run", "<cell>").uses_run
    assert analyse("await f()", "<cell>").awaits
    assert analyse("from m import *", "<cell>").open_ended


def test_reads_off_the_usual_course_are_optional() -> None:
    cell = "for i in n: j = i\nwith m: k = 1\ndef f(): return late\nlate = f\nif n: x = 1\nj, k, x"
    assert analyse(cell, "<cell>").optional == {"j", "k", "late"}


def test_a_line_number_goes_with_each_read() -> None:
    assert analyse("a\nb\na", "<cell>").reads == {"a": 1, "b": 2}


@pytest.mark.parametrize("cell", ["x =", "\n\nreturn 1", "break"])
def test_syntax_errors_pass_as_they_are(cell: str) -> None:
    with pytest.raises(SyntaxError) as caught:
        analyse(cell, "<ipython-input-3>")
    assert caught.value.filename == "<ipython-input-3>"
    assert caught.value.lineno == cell.count("\n") + 1


@pytest.mark.parametrize(
    ("call", "typed"),
    [
        ("get_ipython().run_line_magic('time', 'f()')", "%time f()"),
        ("get_ipython().run_cell_magic('bash', '', 'ls')", "%%bash"),
        ("get_ipython().system('ls')", "!ls"),
        ("y = get_ipython().getoutput('ls')", "!ls"),
        ("get_ipython()", "get_ipython()"),
    ],
)
def test_magics_are_refused_with_line_and_text(call: str, typed: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        analyse(f"x = 1\n\n{call}", "<cell>")
    assert str(caught.value).startswith(f"line 3 uses a magic or shell escape (`{typed}`)")


def test_too_deep_a_cell_is_refused_in_words() -> None:
    cell = "if x: pass\n" + "elif x: pass\n" * 2000
    with pytest.raises((InvalidRequest, RecursionError), match="nested too deeply|recursion"):
        analyse(cell, "<cell>")


# -- laws

_PRELUDE = """
import re, reprlib
from contextlib import nullcontext, suppress
short = reprlib.Repr()
short.maxother = 1000
seen = []
budget = [40]
class Budget(BaseException): pass
def show(value):
    return re.sub("0x[0-9a-f]+", "", short.repr(value))
def see(*values): seen.append([show(value) for value in values])
def tick():
    budget[0] -= 1
    if budget[0] < 0: raise Budget
def op(*values):
    return sum(value for value in values if isinstance(value, int)) % 4
def it(value):
    return value[:2] if isinstance(value, list) else [value, 1]
def call(value):
    return value() if callable(value) else value
def now(function):
    function()
    return function
a, b, c, d = 1, 2, [3, 4], 0
def f(p=0):
    tick()
    return op(a, d)
def g(p=0):
    global b
    tick()
    b = op(b, p, 1)
    return f(c)
class K:
    a = 7
    def m(self): return b
k = K()
"""
_DEFINED = ["a", "b", "c", "d", "f", "g", "K", "k"]
_NAMES = [*_DEFINED, "u"]

_EXPRESSIONS = (
    "op(<e>, <e>)", "op(<e>, <e>)", "(<n> := <e>)", "(<n> := <e>)", "(<e> if <e> else <e>)",
    "(<e> and <e>)", "(<e> or <e>)", "not <e>", "[<e>, <n>]", "call(<n>)", "f(<e>)", "g()", "k.m()",
    "[<n> for <n> in it(<n>)]", "[op(x, <n>) for x in it(<n>) if <n>]", "(lambda: <e>)()",
    "(lambda x=<e>: <e>)", "sum(op(<n>) for x in it(<n>) for <n> in it(x))",
    "{op(<e>): <e>, (<n> := 5): <e>}", "(op(<e>) < op(<e>) < (<n> := 2))", "f'{(<n>, 0)[1]}'",
    "[[<n> for x in it(<n>)] for <n> in it(<n>)]", "{op(x): <n> for x in it(<n>)}",
)  # fmt: skip
_LEAKING = ("[(<n> := x) for x in it(<n>)]", "[<n> for x in it(<n>) if (<n> := x)]")
_STATEMENTS = (
    *(("<n> = <e>", "<n> = 1", "see(<n>)", "see(<e>)") * 3), "<n>, <n> = <e>, <e>",
    "*<n>, <n> = [<e>, <e>]", "<n> = op(<n>); <n> += op(<e>)", "c = [1]; c[op(0)] = <e>",
    "b, c[b - b] = 1, <e>", "del <n>", "<n>: <n> = <e>", "import math as <n>",
    "from math import pi as <n>", "assert <e>, <e>", "raise ValueError(<e>)", "<n>.a = <e>",
)  # fmt: skip


class Program:
    """Draws the text of a cell that ends."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw
        self._in_class = False

    def one(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def name(self) -> str:
        return str(self.one(*_DEFINED, *_NAMES))

    def expression(self, depth: int = 2) -> str:
        if depth == 0 or self.one(True, False, False):
            return str(self.one(*_DEFINED, *_NAMES, "0", "1", "[]", "[1, 2]"))
        # A walrus that leaves a comprehension is a syntax error in a class body.
        form = self.one(*_EXPRESSIONS, *(() if self._in_class else _LEAKING))
        return self.fill(form, depth - 1)

    def fill(self, form: str, depth: int = 2) -> str:
        while "<e>" in form:
            form = form.replace("<e>", self.expression(depth), 1)
        while "<n>" in form:
            form = form.replace("<n>", self.name(), 1)
        return form

    def block(self, depth: int, inside: str, *first: str) -> list[str]:
        lines = [x for _ in range(self.one(1, 2, 3)) for x in self.statement(depth - 1, inside)]
        return ["    " + line for line in [*first, *lines]]

    def statement(self, depth: int, inside: str = "") -> list[str]:
        if depth and self.one(True, False):
            kinds = (self._if, self._for, self._while, self._try, self._with, self._match)
            compound: Callable[[int, str], list[str]] = self.one(
                *kinds, self._def, self._def, self._class
            )
            return compound(depth, inside)
        jumps = ("break", "continue") if "loop" in inside else ()
        returns = ("return <e>",) if "def" in inside else ()
        return [self.fill(self.one(*_STATEMENTS, *jumps, *returns))]

    def _if(self, depth: int, inside: str) -> list[str]:
        lines = [f"if {self.expression()}:", *self.block(depth, inside)]
        return [*lines, "else:", *self.block(depth, inside)] if self.one(True, False) else lines

    def _for(self, depth: int, inside: str) -> list[str]:
        over = self.one("[]", "[1]", "[1, 2]", "it(c)", f"it({self.expression()})")
        lines = [f"for {self.name()} in {over}:", *self.block(depth, inside + " loop")]
        return [*lines, "else:", *self.block(depth, inside)] if self.one(True, False) else lines

    def _while(self, depth: int, inside: str) -> list[str]:
        test = self.one("True", self.expression())
        return [f"while {test}:", *self.block(depth, inside + " loop", "tick()")]

    def _try(self, depth: int, inside: str) -> list[str]:
        lines = ["try:", *self.block(depth, inside)]
        form = self.one("except", "except else", "except finally", "finally")
        if "except" in form:
            star = "" if inside else self.one("", "", "*")  # no jumps out of except*
            kind = self.one("Exception", "NameError", "ValueError", "(TypeError, NameError)")
            named = self.one("", f" as {self.name()}")
            lines += [f"except{star} {kind}{named}:", *self.block(depth, inside)]
        for clause in ("else", "finally"):
            if clause in form:
                lines += [f"{clause}:", *self.block(depth, inside)]
        return lines

    def _with(self, depth: int, inside: str) -> list[str]:
        manager = self.one("suppress(Exception)", f"nullcontext({self.expression()})")
        more = self.one("", f", suppress(NameError) as {self.name()}")
        return [f"with {manager} as {self.name()}{more}:", *self.block(depth, inside)]

    def _match(self, depth: int, inside: str) -> list[str]:
        patterns = ("0", "[<n>, *_]", "[_, *<n>]", "K(a=<n>)", "int() | [_]", "{5: <n>}", "[1] as <n>")
        lines = [f"match {self.expression()}:"]
        for pattern in (self.one(*patterns), self.one(*patterns, "<n>", "_")):
            guard = self.one("", f" if {self.expression()}")
            lines.append(f"    case {self.fill(pattern)}{guard}:")
            lines += ["    " + line for line in self.block(depth, inside)]
        return lines

    def _def(self, depth: int, inside: str) -> list[str]:
        name = self.one("f", "g", "u")
        declared = [f"global {self.name()}"] if self.one(True, False) else []
        lines = [
            *self.one([], [], ["@now"]),
            f"def {name}(p={self.expression()}):",
            *self.block(depth, "def", *declared, "tick()"),
            f"    return {self.expression()}",
        ]
        return [*lines, self.one("see()", f"{name}()", f"see({name}())")]

    def _class(self, depth: int, inside: str) -> list[str]:
        outside, self._in_class = self._in_class, True
        body = self.block(depth, "class")
        self._in_class = outside
        return ["class K:", *body, f"    m = lambda self: {self.name()}"]


@st.composite
def cells(draw: Callable[[Any], Any]) -> str:
    program = Program(draw)
    lines = [line for _ in range(draw(st.integers(1, 3))) for line in program.statement(2)]
    return "\n".join([*lines, *(f"see({name})" for name in draw(st.permutations("abcd")))])


def outcome(cell: str, namespace: Namespace, out: str) -> tuple[object, ...]:
    """Run a cell; return how it ended, what it saw, and the value that comes back."""
    show = notebook(_PRELUDE)["show"]  # shortens: nested lists may have a repr without end
    try:
        exec(compile(cell, "<cell>", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        return type(error).__name__, show(error.args), namespace.get("seen", [])
    return "ended", show(namespace.get(out, "absent")), namespace.get("seen", [])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(cell=cells(), out=st.sampled_from(_NAMES))
def test_a_cell_runs_with_what_was_captured_as_it_would_in_the_notebook(cell: str, out: str) -> None:
    try:
        names = analyse(cell, "<cell>")
    except SyntaxError:
        assume(False)
    here = notebook(_PRELUDE)
    assume(out in here or out in names.assigns)
    payload = capture(names, here, [out]).payload
    expected = outcome(cell, notebook(_PRELUDE), out)
    with rank(payload) as there:
        assert outcome(cell, there, out) == expected


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
        "def maker(n):\n    def count(m): return 0 if m == 0 else n + count(m - 1)\n    return count\n"
        "class A:\n    def get(self): return base\n"
        "class B(A):\n    def get(self): return super().get() + 1\n"
        "b, count = B(), maker(2)\n"
    )
    there = run_in_rank("base = 10; got = b.get(), count(3), isinstance(b, B)", here)
    assert there["got"] == (11, 6, True)


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

    with pytest.raises(CannotCapture, match="`job` can't be sent .* it belongs to the notebook"):
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
    names = analyse("x = 1\nmodle, _, display(zzzz)", "<cell>")
    assert explain_missing(names, capture(names, here).missing, here).split("\n") == [
        "line 2 uses `modle`, which neither the cell nor the notebook defines; did you mean model?",
        "line 2 uses `_`, which is the notebook's history and isn't sent. "
        "Give the value a name of its own.",
        "line 2 uses `display`: a rank has no output cell: print it, or return it with --out.",
        "line 2 uses `zzzz`, which neither the cell nor the notebook defines.",
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
    here = notebook("rate = 0.1\ndef helper(x): return x * rate", n=5, name="a", net=torch.nn.Linear(9, 9))
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
